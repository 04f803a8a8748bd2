"""Attacks by inputs: through a key that was found before, through random keys, or by the device."""

from collections.abc import Callable
from functools import partial

import jax

from modellock_jax.attacks.case import ANY, Case, Entry, Found
from modellock_jax.attacks.evasion._adversarial import Classifier, Evasion
from modellock_jax.attacks.evasion.auto_pgd import apgd
from modellock_jax.attacks.evasion.methods import expectation, fgsm, pgd, square
from modellock_jax.core.lock import Key, user_forward

__all__ = ["ENTRIES"]


def _classifier(case: Case, key: Key | None, keys: int) -> Classifier:
    """Return what this attacker can differentiate: the user's model under a key, or over random ones."""
    user = user_forward(case.lock, case.model.forward)
    if key is not None:
        return partial(user, key, case.locked)
    drawn = jax.vmap(lambda rng: case.lock.init(rng, case.locked))(
        jax.random.split(jax.random.fold_in(case.rng, 1), keys)
    )
    return expectation(lambda key, x: user(key, case.locked, x), drawn)


def _white_box(
    method: Callable[..., Evasion], case: Case, eps: float, key: Key | None, keys: int
) -> Found:
    x, y = case.labels
    go = jax.jit(partial(method, _classifier(case, key, keys)))
    return Found(None, key, adversarial=go(x, y, eps).inputs)


def _fgsm(case: Case, *, eps: float = 0.1, key: Key | None = None, keys: int = 8) -> Found:
    return _white_box(fgsm, case, eps, key, keys)


def _pgd(
    case: Case,
    *,
    eps: float = 0.1,
    key: Key | None = None,
    keys: int = 8,
    steps: int = 40,
    restarts: int = 1,
) -> Found:
    method = partial(pgd, rng=case.rng, steps=steps, restarts=restarts)
    return _white_box(method, case, eps, key, keys)


def _apgd(
    case: Case,
    *,
    eps: float = 0.1,
    key: Key | None = None,
    keys: int = 8,
    steps: int = 100,
    restarts: int = 1,
) -> Found:
    method = partial(apgd, rng=case.rng, steps=steps, restarts=restarts)
    return _white_box(method, case, eps, key, keys)


def _square(case: Case, *, eps: float = 0.1, queries: int = 500) -> Found:
    # It needs no gradient, so it asks the device itself.
    x, y = case.labels
    go = jax.jit(partial(square, case.device, eps=eps, rng=case.rng, queries=queries))
    return Found(None, adversarial=go(x, y).inputs)


ENTRIES = (
    Entry("fgsm", _fgsm, ANY, ("labels",), "inputs"),
    Entry("pgd", _pgd, ANY, ("labels",), "inputs"),
    Entry("apgd", _apgd, ANY, ("labels",), "inputs"),
    Entry("square", _square, ANY, ("labels", "device"), "inputs"),
)
