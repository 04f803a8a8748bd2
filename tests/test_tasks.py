"""Every task: what is not finite is worst, tallies add up, harm grows, and a measure is one number."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modellock_jax.tasks import TASKS, Task, finite, measure, merit

B, C = 6, 4
PLACES = {"classify": (), "next_token": (5,), "segment": (3, 3)}
WORST = {"classify": 0.0, "next_token": np.inf, "segment": 0.0}
MADE = {name: make(C) for name, make in TASKS.items()}
TALLY = {name: jax.jit(task.tally) for name, task in MADE.items()}
VALUE = {name: jax.jit(lambda o, y, t=task: t.value(t.tally(o, y))) for name, task in MADE.items()}
LOSS = {name: jax.jit(task.loss) for name, task in MADE.items()}
HARM = {name: jax.jit(task.harm) for name, task in MADE.items()}
every = pytest.mark.parametrize("name", TASKS)
quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def drawn(name, seed):
    rng = np.random.default_rng(seed)
    shape = (B, *PLACES[name])
    logits = rng.normal(0, rng.choice([0.1, 1, 20]), (*shape, C)).astype(np.float32)
    return rng, logits, rng.integers(0, C, shape, np.int32)


def right(y, by=20.0):
    return by * np.eye(C, dtype=np.float32)[y]


def test_every_task_is_in_the_table_under_its_name():
    assert {name: task.name for name, task in MADE.items()} == {name: name for name in TASKS}
    assert set(PLACES) == set(TASKS)


@every
@quick
@given(seed=seeds, bad=st.sampled_from([np.nan, np.inf, -np.inf]), share=st.floats(0.02, 1))
def test_what_is_not_finite_never_helps(name, seed, bad, share):
    task = MADE[name]
    rng, out, y = drawn(name, seed)
    hit = rng.random(out.shape) < share
    spoilt = np.where(hit, np.float32(bad), out)
    before, after = (float(merit(task, VALUE[name](o, y))) for o in (out, spoilt))
    assert after <= before
    # Not even an answer that is all wrong is worse.
    wrong = np.where(hit.any(-1, keepdims=True), right((y + 1) % C), out)
    assert after <= float(merit(task, VALUE[name](wrong, y)))
    lost = hit.reshape(B, -1).any(1)
    np.testing.assert_array_equal(np.isinf(LOSS[name](spoilt, y)), lost)
    assert (float(HARM[name](spoilt, y)) == np.inf) == lost.any()
    np.testing.assert_array_equal(finite(jnp.asarray(spoilt)), ~lost)


@every
def test_nothing_finite_is_the_worst_value(name):
    _, out, y = drawn(name, 0)
    # Where the truth is class 0, which argmax of NaN is.
    assert float(VALUE[name](np.full_like(out, np.nan), 0 * y)) == WORST[name]


@every
@quick
@given(seed=seeds, split=st.sampled_from([1, 3]), bad=st.booleans())
def test_tallies_add_up_in_any_order(name, seed, split, bad):
    rng, out, y = drawn(name, seed)
    out[0].flat[0] = np.nan if bad else out[0].flat[0]
    whole = TALLY[name](out, y)
    parts = TALLY[name](out[:split], y[:split]), TALLY[name](out[split:], y[split:])
    for some in (jax.tree.map(jnp.add, *parts), jax.tree.map(jnp.add, *parts[::-1])):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), some, whole)
        jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail(str(a.dtype)), some, whole)
    nothing = jax.tree.map(jnp.zeros_like, whole)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(jnp.add, whole, nothing), whole)
    order = rng.permutation(B)
    np.testing.assert_allclose(VALUE[name](out[order], y[order]), VALUE[name](out, y), rtol=1e-5)
    np.testing.assert_allclose(LOSS[name](out[order], y[order]), LOSS[name](out, y)[order])


@every
def test_value_goes_from_chance_to_best(name):
    task, (rng, _, y) = MADE[name], drawn(name, 1)
    assert float(VALUE[name](right(y), y)) == task.best
    # Of no class but one that is there too.
    assert float(VALUE[name](right(0 * y), 0 * y)) == task.best
    # A model that knows nothing, on many examples of evenly frequent classes.
    many = np.concatenate([drawn(name, seed)[2] for seed in range(300)])
    guess = np.zeros((*many.shape, C), np.float32)
    if name != "next_token":
        guess = right(rng.integers(0, C, many.shape))
    reached = float(jax.jit(lambda o, t: task.value(task.tally(o, t)))(guess, many))
    np.testing.assert_allclose(reached, task.chance, rtol=0.1)
    assert merit(task, jnp.float32(task.best)) > merit(task, jnp.float32(task.chance))


@every
def test_harm_counts_errors(name):
    _, _, y = drawn(name, 2)
    said = y.copy().reshape(-1)
    found = []
    for place in range(said.size + 1):
        found.append(float(HARM[name](right(said.reshape(y.shape)), y)))
        if place < said.size:
            said[place] = (said[place] + 1) % C
    assert (np.diff(found) > 0).all()
    assert 0 < found[0] < 0.5 < found[-1] < 1
    # As it is defined: of a few loud answers and many quiet ones too.
    _, out, y = drawn(name, 4)
    out[0] = 50 * right((y[0] + 1) % C)
    true = np.eye(C, dtype=bool)[y]
    lead = np.where(true, -np.inf, out).max(-1) - np.where(true, out, -np.inf).max(-1)
    share = 1 / (1 + np.exp(-lead / np.abs(lead).mean()))
    np.testing.assert_allclose(HARM[name](out, y), share.mean(), rtol=1e-5)
    # Where nothing is right a gradient still leads back.
    slope = jax.jit(jax.grad(MADE[name].harm))(right((y + 1) % C), y)
    assert float(jnp.abs(slope).sum()) > 0


@pytest.mark.optax
def test_the_loss_of_classes_is_optax_own_bit_for_bit():
    _, out, y = drawn("classify", 3)
    plain = jax.jit(optax.softmax_cross_entropy_with_integer_labels)
    np.testing.assert_array_equal(LOSS["classify"](out, y), plain(out, y))
    # Bits too where it is asked for a gradient.
    both = [
        jax.jit(jax.grad(lambda o, f=f: f(o, y).mean()))(out)
        for f in (MADE["classify"].loss, plain)
    ]
    np.testing.assert_array_equal(*both)


@every
def test_match_is_nothing_for_equal_answers_and_for_such_as_teach_nothing(name):
    task, (_, out, _) = MADE[name], drawn(name, 4)
    other = drawn(name, 5)[1]
    match = jax.jit(task.match)
    np.testing.assert_allclose(match(out, out), 0, atol=1e-6)
    assert (np.asarray(match(out, other)) > 1e-3).all()
    other[2].flat[1] = np.inf
    assert np.flatnonzero(np.asarray(match(out, other)) == 0).tolist() == [2]
    slope = jax.jit(jax.grad(lambda o, other: task.match(o, other).sum()))(out, other)
    assert bool(jnp.isfinite(slope).all())
    assert float(jnp.abs(slope[2]).max()) == 0


@every
def test_inputs_that_are_augmented_keep_their_shape_and_their_truth(name):
    task = MADE[name]
    x = {
        "classify": jnp.ones((B, 5, 5, 1)),
        "next_token": jnp.ones((B, 5), jnp.int32),
        "segment": jnp.ones((B, 3, 3, 1)),
    }[name]
    moved = task.augment(jax.random.key(0), x)
    assert moved.shape == x.shape
    assert moved.dtype == x.dtype
    if name == "segment":  # nothing moves, or the labels would be wrong
        assert float(jnp.ptp(moved, (1, 2, 3)).max()) == 0
    # Inputs that are no images are left alone by a shift.
    flat = jnp.ones((B, 7))
    if name == "classify":
        np.testing.assert_array_equal(task.augment(jax.random.key(0), flat), flat)


def test_shifts_go_in_every_direction_and_as_far():
    x = jnp.zeros((400, 7, 7, 1)).at[:, 3, 3].set(1)
    moved = np.asarray(MADE["classify"].augment(jax.random.key(0), x))
    places = {(int(i), int(j)) for _, i, j, _ in np.argwhere(moved)}
    assert places == {(i, j) for i in range(1, 6) for j in range(1, 6)}


@every
@pytest.mark.parametrize("batch", [1, 2, 4, 6, 7])
def test_a_measure_is_the_same_in_batches(name, batch):
    task, (_, out, y) = MADE[name], drawn(name, 6)
    out[1].flat[0] = np.nan
    # For perplexity what is not finite would hide the rest.
    out = np.where(np.isnan(out), 0, out) if name == "next_token" else out
    held = jnp.asarray(out)
    go = jax.jit(lambda x, y: measure(task, lambda x: held[x], x, y, batch))
    value, non_finite = go(jnp.arange(B), y)
    np.testing.assert_allclose(value, VALUE[name](out, y), rtol=1e-5)
    np.testing.assert_allclose(non_finite, 0 if name == "next_token" else 1 / B, rtol=1e-6)


def toy() -> Task:
    """Regression: a task of somebody else's, on answers in two arrays."""

    def off(out, y):
        return jnp.abs(out["a"] + out["b"] - y)

    return Task(
        name="toy",
        unit="mean error",
        loss=off,
        harm=lambda out, y: off(out, y).mean(),
        tally=lambda out, y: (jnp.nan_to_num(off(out, y), nan=jnp.inf).sum(), jnp.int32(len(y))),
        value=lambda tally: tally[0] / tally[1].astype(jnp.float32),
        chance=1.0,
        best=0.0,
    )


def test_a_task_of_ones_own_needs_eight_fields_and_no_array_of_logits():
    task, y = toy(), jnp.arange(4.0)
    out = {"a": y, "b": jnp.array([0.0, 1, 0, 1])}
    assert measure(task, lambda i: jax.tree.map(lambda a: a[i], out), jnp.arange(4), y, 3) == (
        0.5,
        0,
    )
    assert task.match(out, {"a": y + 2, "b": out["b"]}).tolist() == [4] * 4
    known = {"a": y.at[1].set(jnp.nan), "b": out["b"] + 1}
    assert task.match(out, known).tolist() == [1, 0, 1, 1]
    assert float(merit(task, jnp.float32(0.1))) > float(merit(task, jnp.float32(0.2)))
    assert task.augment(jax.random.key(0), y) is y


def test_bad_input():
    task = MADE["classify"]
    for x, y, batch in ((3, 4, None), (0, 0, None), (4, 4, 0)):
        with pytest.raises(ValueError, match="as many inputs as truths, at least one, and batches"):
            measure(task, lambda x: x, jnp.zeros((x, 2)), jnp.zeros(y, jnp.int32), batch)
    for make in TASKS.values():
        with pytest.raises(ValueError, match=r"needs at least 2 .*, not 1"):
            make(1)
