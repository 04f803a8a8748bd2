"""Attacks by inputs without the key: on the user's model under random keys, or by asking the device."""

from collections.abc import Callable
from functools import partial

import jax

from modellock_jax.attacks.case import ANY, Case, Entry, Found
from modellock_jax.attacks.evasion._adversarial import Classifier, Evasion
from modellock_jax.attacks.evasion.auto_pgd import apgd
from modellock_jax.attacks.evasion.methods import expectation, fgsm, pgd, square
from modellock_jax.core.lock import user_forward

__all__ = ["ENTRIES"]


def _keyless(case: Case, keys: int) -> Classifier:
    """Return what an attacker without the key can differentiate: the user's model, over random keys."""
    drawn = jax.vmap(lambda rng: case.lock.init(rng, case.locked))(
        jax.random.split(jax.random.fold_in(case.rng, 1), keys)
    )
    user = user_forward(case.lock, case.model.forward)
    return expectation(lambda key, x: user(key, case.locked, x), drawn)


def _white_box(method: Callable[..., Evasion], case: Case, eps: float, keys: int) -> Found:
    x, y = case.labels
    return Found(None, adversarial=jax.jit(partial(method, _keyless(case, keys)))(x, y, eps).inputs)


def _fgsm(case: Case, *, eps: float = 0.1, keys: int = 8) -> Found:
    return _white_box(fgsm, case, eps, keys)


def _pgd(case: Case, *, eps: float = 0.1, keys: int = 8, steps: int = 40) -> Found:
    return _white_box(partial(pgd, rng=case.rng, steps=steps), case, eps, keys)


def _apgd(case: Case, *, eps: float = 0.1, keys: int = 8, steps: int = 100) -> Found:
    return _white_box(partial(apgd, rng=case.rng, steps=steps), case, eps, keys)


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
