"""Auto-PGD against its paper, point by point, and the losses of adversarial attacks by their claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modellock_jax import attacks as evasion
from modellock_jax.attacks.evasion import _adversarial, auto_pgd

EPS = 0.1


def wavy(x):
    """Two classes whose border has many hills and valleys within the ball."""
    w = jnp.array([[3.0, -2.0], [1.0, 4.0]])
    h = jnp.sin(12 * x.reshape(-1, 2) @ w) + x.reshape(-1, 2)
    return h @ jnp.array([[1.0, -1.0], [0.5, -0.5]])


def cliff(x):
    """The start is nearly the top; behind it a cliff, and a slope that rises and never as high."""
    height = x.reshape(-1, 1) - 0.92
    height = jnp.where(height < 1e-4, height + 1, height)
    return jnp.concatenate([0 * height, height], 1)


def path(f, x, label, steps):
    """Algorithm 1 of Croce & Hein (2020) for one input: every point, and why steps were halved."""
    look_at = jax.jit(jax.value_and_grad(lambda x: -jax.nn.log_softmax(f(x)[0])[label]))
    checkpoints = np.flatnonzero(auto_pgd._checkpoints(steps)).tolist()

    def project(z):
        return np.clip(np.clip(z, x - np.float32(EPS), x + np.float32(EPS)), 0, 1)

    def look(x):
        loss, gradient = look_at(jnp.asarray(x))
        return float(loss), np.sign(np.asarray(gradient))

    size, points, before, now = np.float32(2 * EPS), [x], x, x
    loss, gradient = look(now)
    best, rises, last, then, rules = (loss, now, gradient), 0, 0, None, []
    for k in range(1, steps + 1):
        moved = project(now + size * gradient)
        alpha = 1.0 if k == 1 else 0.75
        after = project(now + alpha * (moved - now) + (1 - alpha) * (now - before))
        before, now, loss_before = now, after.astype(np.float32), loss
        points.append(now)
        loss, gradient = look(now)
        rises += loss > loss_before
        if loss > best[0]:
            best = (loss, now, gradient)
        if k in checkpoints:
            rule = 1 if rises < 0.75 * (k - last) else 2 if then == (size, best[0]) else 0
            rules.append(rule)
            then, rises, last = (size, best[0]), 0, k
            if rule:
                size, (loss, now, gradient) = size / 2, best
    return np.array(points), rules


@pytest.mark.parametrize(
    ("f", "steps", "x"),
    [
        (wavy, 40, np.random.default_rng(0).uniform(0.02, 0.98, (12, 1, 2, 1))),
        (cliff, 120, np.full((1, 1, 1, 1), 0.92)),
    ],
    ids=["wavy", "cliff"],
)
def test_auto_pgd_walks_the_path_of_its_paper(f, steps, x):
    seen, x = [], x.astype(np.float32)

    def watched(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
        return f(x)

    y = jnp.asarray(f(jnp.asarray(x)).argmax(-1), jnp.int32) if f is wavy else jnp.array([0])
    jax.jit(lambda: evasion.apgd(watched, jnp.asarray(x), y, EPS, steps=steps))()
    jax.effects_barrier()
    walked = np.stack(seen[-(steps + 1) :], 1)
    alike, reasons = 0, set()
    for one, points, label in zip(x, walked, y):
        expected, rules = path(f, one[None], int(label), steps)
        reasons.update(rules)
        alike += np.abs(points - expected[:, 0]).max() < 1e-4
    # Where two losses are equal but for rounding, two programs may go two ways.
    assert alike >= 0.9 * len(x)
    assert reasons == {0, 1} | ({2} if f is cliff else set())


def test_dlr_is_free_of_scale_and_cross_entropy_of_rounding():
    logits, y = jnp.array([[3.0, 1.0, -2.0, 0.5], [0.0, 4.0, 1.0, 2.0]]), jnp.array([0, 2])
    for scale in (0.01, 1.0, 100.0):
        # By hand: the lead of another class, by the first less the third.
        np.testing.assert_allclose(_adversarial.dlr(scale * logits, y), [-0.8, 1.0], rtol=1e-5)
    sure = _adversarial.cross_entropy(jnp.array([[60.0, 0.0, 0.0]]), jnp.array([0]))
    np.testing.assert_allclose(sure, 2 * np.exp(-60.0), rtol=1e-5)


def test_what_is_wrong_as_it_is_withstands_nothing():
    x, y = jnp.array([[0.2], [0.8]]), jnp.array([0, 0])

    def f(x):
        return jnp.concatenate([0.5 - x, x - 0.5], 1)

    # The second input is misclassified; moved, it would be right.
    found = evasion.transfer(f, x, y, jnp.array([[0.3], [0.3]]))
    assert found.robust.tolist() == [1, 0]


def test_pgd_keeps_the_point_that_fools_and_not_the_last_one():
    def ridge(x):
        height = 0.05 - jnp.abs(x.reshape(-1, 1) - 0.6)
        return jnp.concatenate([jnp.zeros_like(height), height], 1)

    x, y = jnp.full((1, 1), 0.5), jnp.zeros(1, jnp.int32)
    # It steps on the ridge, and over it.
    found = evasion.pgd(ridge, x, y, 0.3, steps=2, step_size=0.11)
    assert found.robust.tolist() == [0]
    np.testing.assert_allclose(found.inputs, 0.61, rtol=1e-6)


@pytest.fixture
def squares():
    """The candidates of a search on grey images, for which nothing is worse than grey."""
    seen = []

    def f(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
        away = jnp.abs(x - 0.5).sum((1, 2, 3))[:, None]
        return jnp.concatenate([away + 1, 0 * away], 1)

    x, y = jnp.full((1, 10, 10, 1), 0.5), jnp.zeros(1, jnp.int32)
    jax.jit(lambda: evasion.square(f, x, y, 0.1, jax.random.key(0), queries=100))()
    jax.effects_barrier()
    return [np.abs(one[0, :, :, 0] - 0.5) > 0.05 for one in seen]


def test_square_begins_with_stripes_and_its_squares_shrink(squares):
    assert len(squares) == 102  # the stripes, the image, and every query
    assert sorted(moved.mean() for moved in squares[:2]) == [0, 1]
    sides = [int(moved.any(0).sum()) for moved in squares[2:]]
    for moved, side in zip(squares[2:], sides):
        assert moved.sum() == side**2
    # The paper's first share of an image is four fifths, and it is halved on the way.
    assert (sides[0], sides[-1]) == (9, 1)
    assert sides == sorted(sides, reverse=True)


def test_square_keeps_stripes_that_fool():
    def f(x):  # it errs where every pixel has moved, which no square of four fifths does
        moved = (jnp.abs(x - 0.5).min((1, 2, 3)) > 0.05)[:, None].astype(jnp.float32)
        return jnp.concatenate([0.5 + 0 * moved, moved], 1)

    x, y = jnp.full((3, 10, 10, 1), 0.5), jnp.zeros(3, jnp.int32)
    found = evasion.square(f, x, y, 0.1, jax.random.key(0), queries=1)
    assert found.robust.tolist() == [0, 0, 0]
