"""What a row says of a key, a thief and a twin: studies with stubs in place of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.stub_study import FLIP, rows_of, same, shown, untrained

from modellock_jax.attacks.case import Found
from modellock_jax.study import cases, main, training
from modellock_jax.study.context import fresh, rng_for
from modellock_jax.study.main_grids import lock_grid, thief_grid
from modellock_jax.study.store import Rows
from modellock_jax.tasks import Score

pytestmark = pytest.mark.optax


@pytest.fixture
def context(monkeypatch, tmp_path):
    return untrained(monkeypatch, tmp_path)


# The main study


@pytest.fixture
def row_of(context, monkeypatch):
    """`row_of(seed, ...)`: its row, and the keys that were tried in turn, with other programs."""

    def make(seed, **programs):
        tried, real = [], main._programs(context, FLIP)

        def score(key, locked):
            tried.append((key.signs, locked))
            return Score(jnp.float32(len(tried)), jnp.float32(len(tried) / 100))

        stub = real._replace(score=score, **programs)
        monkeypatch.setattr(main, "_programs", lambda *_: stub)
        (row,) = main.lock_rows(context, FLIP, seed)
        monkeypatch.undo()
        return row, tried

    return make


def test_every_value_of_a_row_is_that_of_the_key_it_names(context, row_of):
    models = training.locked_models(context, FLIP)
    row, tried = row_of(1)
    keys = np.stack([key for key, _ in tried])
    right, near, first, second, *wrong = keys
    assert np.array_equal(right, models[1].key.signs)
    assert (right != near).sum() == 1
    assert np.array_equal(first, models[0].key.signs)
    assert np.array_equal(second, right)
    assert len({key.tobytes() for key in (right, near, first, *wrong)}) == 6
    assert all(same(locked, models[1].locked) for _, locked in tried)
    assert not same(models[1].locked, models[1].params)
    assert (row["right"], row["near"]) == (1, 2)
    assert row["cross"] == [3, 4]
    assert row["wrong"] == [5, 6, 7]
    assert row["wrong_non_finite"] == pytest.approx(0.06)
    assert row["none"] == float(context.score(models[1].locked).value) != row["plain"]
    assert row["plain"] == float(context.score(models[1].params).value)


def test_equal_is_equal_to_the_last_bit(context, row_of):
    params = training.locked_models(context, FLIP)[0].params
    assert row_of(0)[0]["right_is_plain"]
    # The same answers to the eye, and to argmax.
    louder = jax.tree.map(lambda leaf: leaf * jnp.float32(1 + 1e-6), params)
    assert same(context.answers(louder).argmax(-1), context.answers(params).argmax(-1))
    assert not row_of(0, decrypt=lambda *_: louder)[0]["right_is_plain"]


def lock_row(seed, **fields):
    row = {"id": f"lock/{FLIP}/{seed}", "kind": "lock", "lock": FLIP, "scheme": "sign_flip"}
    row |= {"seed": seed, "trained_under": False, "plain": 0.9, "right": 0.9}
    row |= {"right_is_plain": True, "near": 0.5, "cross": [0.9, 0.1], "wrong": [0.1, 0.3]}
    row |= {"wrong_non_finite": 0.0, "none": 0.1, "none_non_finite": 0.0, "prior": 0.2}
    row |= {"key_bits": 64.0, "changed": 3, "parameters": 9, "encrypt_s": 1.0, "decrypt_s": 1.0}
    return row | fields


def test_a_line_is_of_all_seeds_and_all_keys(context):
    exact = rows_of(lock_row(0), lock_row(1, wrong=[0.5, 0.7], near=0.7))
    (line,) = shown(lock_grid(exact, context.config))
    assert line["right key"] == "90.0 ="
    # Of 0.1, 0.3, 0.5, 0.7, by hand: the mean, and Student's t of 3 degrees of freedom.
    half = 3.18244631 * np.std([10, 30, 50, 70], ddof=1) / 2
    assert line["3 wrong keys [95 %]"] == f"40.0 [{40 - half:.1f}, {40 + half:.1f}]"
    assert (line["max"], line["1 bit or swap off"]) == ("70.0", "60.0")
    for seed in (0, 1):
        other = exact | {f"lock/{FLIP}/{seed}": lock_row(seed, right_is_plain=False)}
        (line,) = shown(lock_grid(Rows(other), context.config))
        assert line["right key"] == "90.0"


def test_of_the_thiefs_rates_the_best_counts(context):
    rows = rows_of(
        *(
            {"id": f"{name}{seed}{rate}", "kind": "thief", "lock": name, "seed": seed,
             "budget": 0.2, "best": best + seed / 10}
            for name, of_rates in (("scratch", (0.4, 0.2, 0.1)), (FLIP, (0.3, 0.7, 0.6)))
            for rate, best in enumerate(of_rates)
            for seed in (0, 1)
        )
    )  # fmt: skip
    lines = [
        line["20 % of the data"].split(" ")[0] for line in shown(thief_grid(rows, context.config))
    ]
    assert lines == ["45.0", "75.0"]


@pytest.fixture
def theft(context, monkeypatch):
    """`theft(text)`: the row of a thief whose program says three values, and what it began with."""

    def make(text):
        began = []

        def steal(rng, state, size, rate):
            began.append((rng, state[0], int(size)))
            return jnp.array([0.25, 0.75, 0.5])

        monkeypatch.setattr(main, "_thief", lambda _: steal)
        (row,) = main.thief_rows(context, text, 1, 0.2, 1e-3)
        monkeypatch.undo()
        return row, began[0]

    return make


def test_the_thief_has_what_is_locked_and_the_twin_as_much_time(context, theft):
    locked = training.locked_models(context, FLIP)[1]
    row, (rng, params, size) = theft(FLIP)
    assert same(params, locked.locked)
    assert not same(params, locked.params)
    twin, (rng_of_twin, start, size_of_twin) = theft(main.SCRATCH)
    assert same(start, fresh(context, 1))
    assert size == size_of_twin == row["images"] == 12
    assert same(jax.random.key_data(rng), jax.random.key_data(rng_of_twin))
    for found in (row, twin):
        assert found["curve"] == [0.25, 0.75, 0.5]
        assert found["best"] == 0.75


def test_the_thief_trains_on_a_share_of_the_training_images_alone(context):
    """What is not finite spoils all that it reaches: test images and other people's reach nothing."""
    rng, size, rate = rng_for(1, "x"), jnp.int32(12), jnp.float32(1e-2)
    state = main.fine_tune(context.model, rate, context.example).init(rng, fresh(context, 1))

    def curve(spoilt):
        x = context.data.train_x.copy()
        x[spoilt] = np.nan
        other = dataclasses.replace(context, data=context.data._replace(train_x=x))
        return main._thief(other)(rng, state, size, rate).tolist()

    mine = jax.random.permutation(jax.random.split(rng, 3)[0], 60)[:12]
    clean, rest = curve([]), np.setdiff1d(np.arange(60), mine)
    assert max(clean) > 0
    assert curve(rest) == clean
    assert curve(np.asarray(mine)) == [0, 0]


# The cases of the league


def test_an_attacker_has_a_share_of_the_training_images_and_what_is_locked(context):
    case, about = cases.case_of(context, FLIP, 0)
    params, locked, key = training.locked_models(context, FLIP)[0]
    x, y = case.labels
    place = {image.tobytes(): n for n, image in enumerate(context.data.train_x)}
    mine = [place[np.asarray(image).tobytes()] for image in x]
    assert len(set(mine)) == len(x) == 12
    assert y.tolist() == context.data.train_y[mine].tolist()
    assert same(case.unlabelled, x)
    assert same(case.locked, locked)
    assert same(case.known_weights, params)
    assert same(case.device(x), context.model.forward(params, x))
    others = [case.other_copy.locked, *case.more_copies]
    assert not any(same(one, two) for one in others for two in [locked, *others] if one is not two)
    assert not same(case.other_copy.key.signs, key.signs)
    assert same(context.subjects[FLIP].lock.decrypt(*case.other_copy[::-1]), params)
    assert about["no_key"] == float(context.score(locked).value)
    assert about["right_key"] == float(context.score(params).value)


def test_an_attack_is_worth_what_it_answers_on_test_images(context, monkeypatch):
    key = training.locked_models(context, FLIP)[0].key

    def row(found):
        monkeypatch.setattr(cases, "attempt", lambda *_: found)
        return cases.attacked(context, FLIP, 0, "fine_tune")

    def zeros(x):
        return jnp.tile(jax.nn.one_hot(0, 5), (len(x), 1))

    found = row(Found(zeros, key._replace(signs=key.signs.at[:16].multiply(-1)), None, 7, 8, 9))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert (found["key_right"], found["images"], found["queries"]) == (0.75, 7, 8)
    none = row(None)
    assert (none["gave_up"], found["gave_up"]) == (True, False)
    assert none["accuracy"] == cases.case_of(context, FLIP, 0)[1]["no_key"]
    # Inputs that mislead are answered by the user's device.
    case = cases.case_of(context, FLIP, 0)[0]
    moved = row(Found(None, adversarial=case.labels[0]))
    right = case.device(case.labels[0]).argmax(-1) == case.labels[1]
    assert moved["accuracy"] == pytest.approx(float(right.mean()))
