"""Which leaves a lock acts on."""

from typing import Any

import jax
from jax.extend.core import Var

from modellock_jax.core.lock import Lock, Params
from modellock_jax.core.paths import paths

__all__ = ["acts_on"]

_CALLS = {"jit", "pjit", "custom_jvp_call", "custom_vjp_call"}


def acts_on(lock: Lock, params: Params) -> list[str]:
    """List the paths of the leaves that a lock encrypts; all others lie open, bit for bit.

    Args:
        lock: Any lock, a chain or an `only`.
        params: A tree of arrays, or of shapes and dtypes; nothing is computed.

    Returns:
        Paths in the order of the tree; none for a lock that acts on inputs or pre-activations.

    Raises:
        ValueError: If the lock cannot lock the tree; `TypeError` likewise, as its `init` says.

    >>> import jax, modellock_jax as ml
    >>> params = {"conv1.weight": jax.numpy.ones((8, 3, 3, 3)), "bn1.weight": jax.numpy.ones(8)}
    >>> ml.acts_on(ml.sign_flip(), params), ml.acts_on(ml.deep_lock(), params)
    (['conv1.weight'], ['bn1.weight', 'conv1.weight'])
    """

    def opened(params: Params) -> Params:
        return lock.decrypt(lock.init(jax.random.key(0), params), params)

    given = _passed_through(jax.make_jaxpr(opened)(params).jaxpr)
    return [path for i, path in enumerate(jax.tree.leaves(paths(params))) if given[i] != i]


def _passed_through(jaxpr: Any) -> list[int | None]:
    """Which argument each result is, untouched."""
    known = {var: i for i, var in enumerate(jaxpr.invars)}
    for step in jaxpr.eqns:
        if step.primitive.name not in _CALLS:
            continue
        inner = step.params.get("jaxpr") or step.params["call_jaxpr"]
        for out, i in zip(step.outvars, _passed_through(inner.jaxpr)):
            if i is not None and isinstance(step.invars[i], Var) and step.invars[i] in known:
                known[out] = known[step.invars[i]]
    return [known.get(out) if isinstance(out, Var) else None for out in jaxpr.outvars]
