"""Sign keys from the weights alone: what is read, how surely, and nothing where there is nothing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.attacks import Case, attempt, read_signs, signs_from_weights
from modellock_jax.attacks.keys.sign_pairs import Writer, sign_pairs
from modellock_jax.attacks.keys.signs_from_weights import LEVEL
from modellock_jax.attacks.keys.signs_of_model import pairs_by_bit, sign_votes
from modellock_jax.data import load
from modellock_jax.models import linen, mlp
from modellock_jax.train import fit

pytestmark = pytest.mark.optax
BITS = 32


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def planted(seed, signs, layers=2, strength=1.0, inputs=60):
    """A stack of layers whose readers align with their writers, under signs."""
    n = signs.shape[-1]
    plain = draw(seed, layers, inputs, n)
    readers = strength * plain.swapaxes(-1, -2) + draw(seed + 1000, layers, n, inputs)
    return plain * signs, readers


def signs_of(seed, n=BITS):
    return np.random.default_rng([seed, 1]).choice(np.int8([-1, 1]), n)


def right(found, key):
    """How many signs are right, all negated or not."""
    same = int((found == key).sum())
    return max(same, len(key) - same)


def test_planted_signs_are_found_however_the_layers_are_given():
    key = signs_of(1)
    writers, readers = planted(2, key)
    together = signs_from_weights([(writers, readers)], BITS)
    apart = signs_from_weights([*zip(np.asarray(writers), np.asarray(readers))], BITS)
    assert together.signs.dtype == jnp.int8
    assert right(together.signs, key) == right(apart.signs, key) == BITS
    deeper = writers.reshape(2, 1, *writers.shape[1:]), readers.reshape(2, 1, *readers.shape[1:])
    np.testing.assert_array_equal(signs_from_weights([deeper], BITS).signs, together.signs)


def test_bits_come_round_and_long_keys_are_read_as_far_as_they_are_used():
    key = signs_of(1)
    writers, readers = planted(2, np.tile(key, 3))
    assert right(signs_from_weights([(writers, readers)], BITS).signs, key) == BITS
    writers, readers = planted(2, key)
    reading = read_signs([(writers, readers)], 50)
    assert right(reading.signs[:BITS], key) == BITS
    assert reading.signs[BITS:].tolist() == [1] * 18
    assert (reading.certainty[:BITS] > 0).all()
    assert not reading.certainty[BITS:].any()


def test_layers_under_keys_of_their_own_are_read_one_by_one():
    keys = [signs_of(seed) for seed in (1, 2)]
    pairs = [planted(3 + i, key, layers=1) for i, key in enumerate(keys)]
    assert signs_from_weights(pairs, BITS) is None
    for pair, key in zip(pairs, keys):
        assert right(signs_from_weights([pair], BITS).signs, key) == BITS


@pytest.mark.parametrize("against", [1, 2])
def test_layers_that_are_against_the_others_count_as_much(against):
    """As those that take back what others write: of a pair of units with like columns, unlike rows."""
    key = signs_of(1)
    writers, readers = planted(2, key, layers=2)
    turned, _ = planted(7, key, layers=against)
    grams = turned.swapaxes(-1, -2) @ turned * np.outer(key, key)
    rows = np.linalg.cholesky(
        1.01 * np.linalg.norm(grams, 2, (-2, -1))[:, None, None] * np.eye(BITS) - grams
    )
    both, one = (
        read_signs(p, BITS) for p in ([(writers, readers), (turned, rows)], [(writers, readers)])
    )
    assert right(both.signs, key) == right(one.signs, key) == BITS
    assert both.p_value == LEVEL
    assert (both.certainty > 1.2 * one.certainty).all()


def test_units_of_large_layers_are_compared_with_their_neighbours_alone(monkeypatch):
    key = signs_of(1)
    writers, readers = planted(2, np.tile(key, 20), strength=0.5)
    whole = read_signs([(writers, readers)], BITS)
    monkeypatch.setattr("modellock_jax.attacks.keys.signs_from_weights.PRODUCTS", 0)
    monkeypatch.setattr("modellock_jax.attacks.keys.signs_from_weights.OUTPUTS", 25)
    parts = read_signs([(writers, readers)], BITS)
    assert right(parts.signs, key) == right(whole.signs, key) == BITS
    assert not np.array_equal(parts.certainty, whole.certainty)


def test_the_signs_of_shifts_and_of_a_head_tell_a_key_from_its_negative():
    key = signs_of(1)
    shift, quiet = -np.abs(draw(1, 40)) * key[np.arange(40) % BITS], np.zeros(BITS, np.float32)
    head = (draw(2, BITS, 10) - 0.5) * key[:10]
    kernel = draw(3, 7, 40)
    hidden = Writer(kernel, kernel.T, 1, shift)
    readers = Writer(draw(4, 40, BITS), head, 1, quiet), Writer(head, None, 1, quiet[:10])
    for writers in ([hidden], [readers[1]], [hidden, *readers]):
        assert sign_votes(writers, key) > 1
        assert sign_votes(writers, key) == -sign_votes(writers, -key)
    assert sign_votes([readers[0]], key) == 0


def test_a_layer_that_says_nothing_is_passed_over():
    key = signs_of(1)
    writers, readers = planted(2, key)
    for bad in (jnp.nan, jnp.inf, 0.0):
        pairs = [(writers, readers), (np.full((5, BITS), bad), draw(1, BITS, 3))]
        assert right(signs_from_weights(pairs, BITS).signs, key) == BITS
        assert signs_from_weights(pairs[1:], BITS) is None
    assert read_signs([(draw(1, 5, 1), draw(2, 1, 5))], BITS) is None
    # Equal weights fit alike in every order.
    assert read_signs([(np.ones((5, BITS)), np.ones((BITS, 3)))], BITS).p_value == 1


@pytest.mark.parametrize("setting", [jax.enable_x64, jax.debug_nans])
def test_under_other_settings_of_jax(setting):
    key = signs_of(1)
    zero = np.zeros((5, BITS), np.float32), draw(1, BITS, 3)
    pairs = [planted(2, key), zero, (np.full((5, BITS), np.inf), draw(1, BITS, 3))]
    with setting(True):
        reading = read_signs(pairs, BITS)
    assert (reading.signs.dtype, reading.certainty.dtype) == (jnp.int8, jnp.float32)
    assert right(reading.signs, key) == BITS


@pytest.mark.parametrize(
    "kind", ["untrained", "shuffled", pytest.param("own", marks=pytest.mark.slow)]
)
def test_none_holds_its_level(kind):
    """Of 60 draws without evidence, more than 4 read keys would be a level above 1 % (p < 0.001)."""
    read = 0
    for seed in range(60):
        if kind == "untrained":
            pairs = [(draw(2 * seed, 2, 20, BITS), draw(2 * seed + 1, 2, BITS, 9))]
        elif kind == "shuffled":
            writers, readers = planted(seed, signs_of(seed), layers=1, inputs=9)
            order = np.random.default_rng(seed).permutation(BITS)
            pairs = [(writers, readers[:, order])]
        else:
            own = np.stack([signs_of(2 * seed), signs_of(2 * seed + 1)])[:, None]
            pairs = [planted(seed, own)]
        read += signs_from_weights(pairs, BITS) is not None
    assert read <= 4


@pytest.mark.usefixtures("optimised")
def test_the_least_certain_signs_are_the_wrong_ones():
    wrong, sure = 0, 0
    for seed in range(5):
        key = signs_of(seed, 128)
        reading = read_signs([planted(seed, key, strength=0.4, inputs=30)], 128)
        same = reading.signs == key
        same = same if same.mean() > 0.5 else ~same
        order = jnp.argsort(reading.certainty)
        wrong += int((~same[order[:32]]).sum())
        sure += int((~same[order[-64:]]).sum())
    assert wrong >= 10
    assert sure <= wrong / 10


def test_bad_input():
    with pytest.raises(ValueError, match="at least one pair"):
        signs_from_weights([], 8)
    with pytest.raises(ValueError, match="bits must be at least 1, not 0"):
        signs_from_weights([(draw(0, 3, 4), draw(0, 4, 3))], 0)
    for w, v in [((3, 4), (3, 4)), ((2, 3, 4), (4, 3)), ((4,), (4,))]:
        with pytest.raises(ValueError, match="pair 0 has shapes"):
            signs_from_weights([(draw(0, *w), draw(0, *v))], 8)


@functools.cache
def trained(activation="relu"):
    """A small MLP trained under a mask on digits: lock, model, parameters, key."""
    data, act = load("digits"), {"relu": nn.relu, "abs": jnp.abs}[activation]
    model = mlp(10, (64, 64))
    if activation != "relu":
        hidden = [layer for _ in range(2) for layer in (nn.Dense(64), act)]
        model = linen(nn.Sequential([lambda x: x.reshape(len(x), -1), *hidden, nn.Dense(10)]))
    lock = ml.sign_mask(64)
    start = model.init(jax.random.key(0), jnp.asarray(data.train_x[:1]))
    key = lock.init(jax.random.key(1), start)
    forward = functools.partial(ml.owner_forward(lock, model.forward), key)
    x, y = jnp.asarray(data.train_x), jnp.asarray(data.train_y)
    params, _ = fit(forward, start, x, y, rng=jax.random.key(2), epochs=30, learning_rate=5e-3)
    return lock, model, params, key


def case_of(lock, model, params, scheme="sign_mask", **settings):
    x = jnp.ones((1, 8, 8, 1))
    return Case(
        lock, model, params, jax.random.key(0), x, scheme=scheme, settings={"bits": 64} | settings
    )


def test_a_trained_model_opens_without_any_data():
    lock, model, params, key = trained()
    found = attempt("signs_from_weights", case_of(lock, model, params))
    assert (found.inputs, found.queries, found.passes) == (0, 0, 0)
    assert int((found.key.signs == key.signs).sum()) >= 61
    data = load("digits")
    x, y = jnp.asarray(data.test_x), jnp.asarray(data.test_y)
    right = jax.jit(functools.partial(ml.user_forward(lock, model.forward), key))
    plain = (right(params, x).argmax(-1) == y).mean()
    assert plain > 0.9
    assert (model.forward(params, x).argmax(-1) == y).mean() < 0.5
    assert (found.forward(x).argmax(-1) == y).mean() > plain - 0.05


def test_the_twin_opens_too():
    _, model, params, key = trained()
    plain = ml.sign_flip(64).decrypt(key, params)  # a flip undoes the mask's signs
    other = ml.SignKey(jnp.asarray(signs_of(5, 64)))
    locked, _ = ml.sign_flip(64).encrypt(other, plain)
    found = attempt("signs_from_weights", case_of(ml.sign_flip(64), model, locked, "sign_flip"))
    assert int((found.key.signs == other.signs).sum()) >= 61


def test_nothing_is_read_off_controls():
    lock, model, params, _ = trained()
    untrained = model.init(jax.random.key(9), jnp.ones((1, 8, 8, 1)))
    stream = ml.stream_lock()
    cipher, _ = stream.encrypt(stream.init(jax.random.key(3), params), params)
    for weights in (untrained, cipher):
        assert attempt("signs_from_weights", case_of(lock, model, weights)) is None


def test_an_even_activation_shows_nothing_and_hides_nothing():
    lock, model, params, key = trained("abs")
    assert attempt("signs_from_weights", case_of(lock, model, params)) is None
    data = load("digits")
    x, y = jnp.asarray(data.test_x), jnp.asarray(data.test_y)
    # The lock does nothing there: its outputs' signs alone matter, which the head's bits negate.
    logits = model.forward(params, x) * key.signs[:10].reshape(1, 10).astype(jnp.float32)
    assert (logits.argmax(-1) == y).mean() > 0.9


def test_positions_under_signs_of_their_own_are_left_out():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(6, (3, 3))(x)).reshape(len(x), -1)
            return nn.Dense(4)(nn.relu(nn.Dense(5)(x)))

    model, x = linen(Net()), jnp.ones((1, 8, 8, 1))
    layers = sign_pairs(model.forward, model.init(jax.random.key(0), x), x)
    widths = {
        (bits, per): [w.shape[1] for w, _ in pairs_by_bit(layers, bits, per)]
        for bits in (4, 6)
        for per in ("channel", "unit")
    }
    assert widths[4, "unit"] == [5]
    assert widths[6, "unit"] == widths[4, "channel"] == widths[6, "channel"] == [6, 5]
