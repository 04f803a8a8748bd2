"""What the thief of the sweep and its twin hold, and what chose it: with made-up trainings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.stub_study import FLIP, data, rows_of, same, shown, untrained

from modellock_jax.attacks.weights.sweep import RATES, Trial
from modellock_jax.models import Model
from modellock_jax.study import sweep, training
from modellock_jax.study.config import Config
from modellock_jax.study.context import assemble, rng_for
from modellock_jax.tasks import classify

pytestmark = pytest.mark.optax
TWO = (("all", "adam"), ("new_last", "adam"))


def says(params, x, tap=None):
    """Answer every input with one class."""
    return jnp.tile(params["w"][None], (len(x), 1))


@pytest.fixture
def swept(monkeypatch, tmp_path):
    """`swept(choose, scratch)`: rows of two seeds of which every setting and stop says a class.

    `choose(seed, rate, rng)` gives the classes `[1 + stops]` and what the thief thinks of them.
    """

    def make(choose, scratch, seeds=2, programs=TWO, rehearsed=None):
        def trial(model, example, variant, optimizer, **_):
            def one(rng, locked, rate, x, y, size):
                seed = jnp.nan_to_num(locked["w"][0]).astype(jnp.int32)
                number = jnp.searchsorted(jnp.array(RATES[optimizer]), rate * 1.01) - 1
                classes, value = choose(seed, number, rng)
                return Trial({"w": jax.nn.one_hot(classes, 5)}, value, -value)

            return one

        monkeypatch.setattr(sweep, "trial", trial)
        monkeypatch.setattr(sweep, "SPARE", 20)
        monkeypatch.setattr(sweep, "PROGRAMS", programs)
        config = Config(locks=(), seeds=seeds, budgets=(0.2,), thief_steps=4, thief_scores=2)
        model = Model(lambda rng, x: {"w": jnp.zeros(5)}, says, None)
        thief = sweep._Thief(assemble(config, tmp_path, model, classify(5), data()))
        thief.healable = lambda starts: True
        if rehearsed is not None:
            thief.rehearse = lambda *_: rehearsed
        starts = jnp.arange(seeds, dtype=jnp.float32)[:, None] * jnp.ones((1, 5))
        return thief, thief.rows({"w": starts + jnp.nan if scratch else starts}, 12, scratch)

    return make


def share(y, label):
    return pytest.approx(float(np.mean(np.asarray(y) == label)))


@pytest.mark.parametrize("scratch", [False, True])
def test_thief_and_twin_hold_the_last_stop_if_it_is_the_best(swept, scratch):
    def rising(seed, number, rng):
        return jnp.array([4, 3, 1]), jnp.array([0.1, 0.2, 0.3])

    thief, rows = swept(rising, scratch)
    test = thief.context.data.test_y
    for row in rows:
        assert row["held_out"]["stop"] == 2
        assert row["held_out"]["curve"] == [share(test, label) for label in (4, 3, 1)]


def test_the_twin_draws_as_often_as_the_thief_has_variants(swept):
    def drawn(seed, number, rng):
        label = jax.random.randint(rng, (), 0, 5)
        return jnp.full(3, label), jnp.full(3, label, jnp.float32)

    thief, rows = swept(drawn, True, programs=sweep.PROGRAMS)
    differ = 0
    for seed, row in enumerate(rows):
        rngs = [jax.random.fold_in(rng_for(seed, "sweep"), draw) for draw in range(4)]
        labels = [int(jax.random.randint(rng, (), 0, 5)) for rng in rngs]
        best = int(np.argmax(labels))
        assert row["held_out"]["setting"].startswith(f"draw {best}, ")
        assert row["held_out"]["accuracy"] == share(thief.context.data.test_y, labels[best])
        differ += labels[best] != labels[0]
    assert differ


def test_a_rehearsal_is_on_the_other_seeds_models(swept):
    """The first rate went best on one's own model, and best on average; the second on the others'."""

    def named(seed, number, rng):
        return jnp.full(3, 4 * number), jnp.zeros(3)

    values = jnp.full((3, 6, 3), 0.5).at[0, 0].set(1).at[1:, 1].set(0.6)
    thief, rows = swept(named, False, seeds=3, rehearsed=values)
    assert rows[0]["rehearsed"]["accuracy"] == share(thief.context.data.test_y, 4)
    # One of the others is that first model.
    for row in rows[1:]:
        assert row["rehearsed"]["accuracy"] == share(thief.context.data.test_y, 0)


def test_nobody_rehearses_on_a_thiefs_images_or_on_test_images(swept):
    thief, _ = swept(lambda *_: (jnp.zeros(3, int), jnp.zeros(3)), False)
    seen = {image.tobytes() for image in thief.context.data.train_x}
    for mine, spare in zip(np.asarray(thief.x), np.asarray(thief.spare_x)):
        owned, rehearsed = ({image.tobytes() for image in some} for some in (mine, spare))
        assert (len(owned), len(rehearsed)) == (12, 20)
        assert owned | rehearsed <= seen
        assert not owned & rehearsed


def test_the_sweep_begins_from_what_is_locked(monkeypatch, tmp_path):
    context = untrained(monkeypatch, tmp_path)
    sweep._starts.cache_clear()
    starts, about = sweep._starts(context, FLIP)
    for seed, model in enumerate(training.locked_models(context, FLIP)):
        assert same(jax.tree.map(lambda leaf, s=seed: leaf[s], starts), model.locked)
        assert about[seed]["no_key"] == float(context.score(model.locked).value)
    nothing, _ = sweep._starts(context, sweep.SCRATCH)
    assert all(bool(jnp.isnan(leaf).all()) for leaf in jax.tree.leaves(nothing))


def swept_rows(**reached):
    return rows_of(
        *(
            {"id": f"{name}{seed}", "kind": "sweep", "lock": name, "seed": seed, "budget": 0.2,
             "no_key": 0.1, "right_key": 0.9, "rehearsed": {"accuracy": value},
             "held_out": {"accuracy": value}}
            for name, values in reached.items()
            for seed, value in enumerate(values)
        )
    )  # fmt: skip


def test_an_advantage_is_of_pairs():
    config = Config(locks=("deep_lock",), seeds=2, budgets=(0.2,))
    rows = swept_rows(scratch=[0.1, 0.5], deep_lock=[0.2, 0.6])
    for grid in sweep.grids(rows, config):
        assert shown(grid)[1]["20 % of the data"] == "40.0: yes, +10.0 [+10.0, +10.0]"
    worse = swept_rows(scratch=[0.2, 0.6], deep_lock=[0.1, 0.5])
    assert shown(sweep.grids(worse, config)[0])[1]["20 % of the data"].startswith(
        "30.0: harm, -10.0"
    )
    wide = swept_rows(scratch=[0.1, 0.5], deep_lock=[0.6, 0.2])
    assert "unclear, +10.0" in shown(sweep.grids(wide, config)[0])[1]["20 % of the data"]
