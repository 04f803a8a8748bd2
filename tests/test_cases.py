"""Every attack of the table: it gets its rights and no others, and what it takes is counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.attacks import (
    ANY,
    ATTACKS,
    RIGHTS,
    Case,
    Copy,
    Entry,
    Found,
    NotGiven,
    attempt,
)
from modellock_jax.attacks._work import Counter, counted
from modellock_jax.models import mlp
from modellock_jax.study.context import subject_of

pytestmark = pytest.mark.optax
LOCKS = {
    "pixel_shuffle": "pixel_shuffle(block=2)",
    "negative_positive": "negative_positive(block=2)",
    "ffx": "ffx(block=2)",
    "patch_shuffle": "patch_shuffle(patch=4)",
    "sign_mask": "sign_mask(bits=8)",
    "sign_flip": "sign_flip(bits=8)",
    "adv_params": "adv_params(count=4)",
    "deep_lock": "deep_lock",
    "stream_lock": "stream_lock",
}
W, X = np.ones((3, 2), np.float32), np.ones((5, 3), np.float32)
# Small numbers, for the time that it takes.
SETTINGS = {
    **{name: {"steps": 3} for name in ("scratch", "fine_tune", "distil", "fine_tune_under_key")},
    "random_keys": {"keys": 6, "first": 4, "survivors": 3},
    **{f"relaxed_key{n}": {"steps": 4, "restarts": 2} for n in ("", "_unlabelled")},
    "fine_tune_under_estimated_key": {"steps": 3, "search": {"steps": 4, "restarts": 2}},
    "sign_mask_oracle": {"steps": 60, "restarts": 2, "queries": 16},
    "selective": {"iterations": 2, "steps": 2},
    "restore": {"steps": 2},
    **{name: {"steps": 2, "swaps": 3} for name in ("hill_climb", "anneal")},
    **{name: {"steps": 2} for name in ("coordinate_flips", "genetic", "linear_flips")},
    **{name: {"steps": 2, "keys": 2} for name in ("pgd", "apgd")},
    "square": {"queries": 3},
}


@functools.cache
def case(scheme):
    """A small model under a lock, and everything that an attacker may have."""
    x = jax.random.uniform(jax.random.key(0), (24, 4, 4, 1))
    subject = subject_of(LOCKS[scheme], x.shape[1:])
    lock, name, settings = subject.lock, subject.scheme, subject.settings
    model = mlp(3, (20,))
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(1), x[:1]))

    @jax.jit
    def encrypt(key, params):
        return lock.encrypt(
            key, params, lambda p: -jax.nn.log_softmax(model.forward(p, x))[:, 0].mean()
        )

    init = jax.jit(lock.init)
    locked, key = encrypt(init(jax.random.key(2), params), params)
    device = functools.partial(ml.user_forward(lock, model.forward), key, locked)
    y = device(x).argmax(-1)
    others = [encrypt(init(jax.random.key(i), params), params) for i in (3, 4)]
    changed = jax.tree.map(lambda leaf: leaf + 1, params)
    rights = {
        "unlabelled": x,
        "labels": (x, y),
        "device": device,
        "chosen_input": functools.partial(lock.scramble, key),
        "known_weights": params,
        "public_base": params,
        "other_copy": Copy(*others[0]),
        "more_copies": [locked for locked, _ in others],
        "reused_stream": (encrypt(key, changed)[0], changed),
    }
    assert set(rights) == set(RIGHTS)
    return Case(
        lock, model, locked, jax.random.key(5), x[:1], scheme=name, settings=settings, **rights
    ), key


def schemes(entry):
    """One scheme that the attack is against; adv_params stands for any lock."""
    return "adv_params" if entry.against == ANY else entry.against[0]


# They run in tests of their own, and are slow to compile.
SLOW = (
    "relaxed_key", "sign_mask_oracle", "deep_lock_ciphertext_only", "hill_climb", "genetic",
    "neutral_key",
)  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_run_without_what_it_needs(name):
    entry = ATTACKS[name]
    full, _ = case(schemes(entry))
    for right in entry.needs:
        rest = full.only(*(set(entry.needs) - {right}))
        with pytest.raises(NotGiven, match=f"has no {RIGHTS[right]}"):
            attempt(name, rest, **SETTINGS.get(name, {}))


class Poison:
    """A right that this attacker has not: whoever looks at it, calls it or counts it is told."""

    def touched(self, *_, **__):
        raise AssertionError("an attack looked at what it did not ask for")

    __getattr__ = __call__ = __iter__ = __len__ = __getitem__ = __bool__ = touched


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ATTACKS]
)
def test_an_attack_runs_with_what_it_needs(name):
    entry = ATTACKS[name]
    full, _ = case(schemes(entry))
    needs = {right: getattr(full, right) for right in entry.needs}
    poisoned = full.replace(**dict.fromkeys(RIGHTS, Poison()) | needs)
    found = attempt(name, poisoned, **SETTINGS.get(name, {}))
    if found is not None:
        assert (found.forward is None) == (entry.gives == "inputs")
        assert found.adversarial is None or found.adversarial.shape == full.labels[0].shape
        assert (found.inputs > 0) == bool({"labels", "unlabelled"} & set(entry.needs))
        assert (found.queries > 0) == bool({"device", "chosen_input"} & set(entry.needs))
        if found.forward is not None:
            assert found.forward(full.unlabelled).shape == (24, 3)


def test_an_attack_cannot_read_what_it_did_not_ask_for(monkeypatch):
    def greedy(case):
        return Found(functools.partial(case.model.forward, case.known_weights))

    full, _ = case("stream_lock")
    monkeypatch.setattr(ATTACKS, "_registered", {})
    ATTACKS.register(Entry("greedy", greedy, ANY, ("labels",), "weights"))
    with pytest.raises(NotGiven, match="some plain weights"):
        attempt("greedy", full)
    assert not hasattr(full.only(), "device")
    assert full.only("labels", "device").rights == ("labels", "device")


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("pixel_shuffle_chosen_image", "pixel_shuffle"),
        ("pixel_shuffle_known_pairs", "pixel_shuffle"),
        ("sign_flip_known_plaintext", "sign_flip"),
        ("deep_lock_known_plaintext", "deep_lock"),
        ("deep_lock_base_model", "deep_lock"),
        ("signs_from_base", "sign_flip"),
        ("permutation_from_base", "patch_shuffle"),
    ],
)
def test_exact_attacks_find_the_key(name, scheme):
    full, key = case(scheme)
    found = attempt(name, full)
    for a, b in zip(jax.tree.leaves(found.key), jax.tree.leaves(key)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(found.forward(full.unlabelled), full.device(full.unlabelled))


def test_one_stream_twice_opens_deep_lock_and_not_stream_lock():
    for scheme, same in (("deep_lock", True), ("stream_lock", False)):
        full, _ = case(scheme)
        found = attempt("stream_reuse", full)
        answers = found.forward(full.unlabelled)
        assert bool((answers == full.device(full.unlabelled)).all()) == same


def test_copies_are_compared_weight_by_weight():
    full, _ = case("adv_params")
    copies = [jnp.array([1.0, 9.0]), [jnp.array([1.0, 2.0]), jnp.array([7.0, 2.0])]]
    model = full.model._replace(forward=lambda params, x, tap=None: params)
    few = Case(full.lock, model, copies[0], full.rng, full.example, more_copies=copies[1])
    assert attempt("vote_copies", few).forward(X).tolist() == [1, 2]
    assert attempt("average_copies", few).forward(X)[0] == 3


def dense(params, x, tap=None):
    return x @ params


def squares(model, params, x):
    return (model.forward(params, x) ** 2).sum()


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        (lambda m: m.forward(W, X), 5),
        (lambda m: jax.jit(m.forward)(W, X), 5),
        (lambda m: jax.vmap(m.forward, (0, None))(jnp.stack([W] * 7), X), 35),
        (lambda m: jax.jit(jax.grad(lambda w: squares(m, w, X)))(W), 15),
        (lambda m: jax.vmap(jax.grad(lambda w: squares(m, w, X)))(jnp.stack([W] * 2)), 30),
        (lambda m: jax.lax.map(lambda w: m.forward(w, X), jnp.stack([W] * 4)), 20),
        (
            lambda m: jax.lax.while_loop(
                lambda c: c[0] < 6, lambda c: (c[0] + 1, c[1] + m.forward(W, X).sum()), (0, 0.0)
            ),
            30,
        ),
    ],
)
def test_work_is_counted_by_running(program, passes):
    tally = Counter()
    jax.block_until_ready(program(counted(mlp(2)._replace(forward=dense), tally)))
    jax.effects_barrier()
    assert tally.total == passes


def test_counting_changes_no_bit():
    model, tally = mlp(3, (16,)), Counter()
    x = jax.random.normal(jax.random.key(0), (9, 4))
    params = model.init(jax.random.key(1), x)
    for function in (lambda m: m.forward, lambda m: jax.grad(functools.partial(squares, m))):
        plain, seen = (jax.jit(function(m))(params, x) for m in (model, counted(model, tally)))
        jax.tree.map(np.testing.assert_array_equal, plain, seen)


def test_bad_input():
    full, _ = case("stream_lock")
    with pytest.raises(ValueError, match="there is no attack 'magic'; the attacks are scratch"):
        attempt("magic", full)
    with pytest.raises(ValueError, match="selective is against adv_params, not 'stream_lock'"):
        attempt("selective", full)
    with pytest.raises(TypeError, match=r"the rights are unlabelled, .*, not luck"):
        Case(full.lock, full.model, full.locked, full.rng, full.example, luck=1)
    with pytest.raises(ValueError, match="the attack 'scratch' is there already"):
        ATTACKS.register(ATTACKS["scratch"]._replace(gives="key"))
    with pytest.raises(AttributeError, match="a Case has no 'key'"):
        _ = full.key
