"""The distilling thief: trains a copy on the answers of a model that works. No lock prevents it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from modellock_jax.attacks._programs import bind
from modellock_jax.attacks._train import fit_best_rate
from modellock_jax.attacks.attack import Attack, blank, sanitise
from modellock_jax.attacks.case import ANY, Case, Entry, Found
from modellock_jax.core.lock import Params
from modellock_jax.models import Model
from modellock_jax.tasks import Task, classify, finite, kl_divergence

__all__ = ["ENTRIES", "distil"]


def distil(model: Model, learning_rate: Any, example: Any, task: Task = classify()) -> Attack:
    """Train with Adam on the oracle's answers to inputs without labels.

    `init(rng, locked)` starts from the locked weights, sanitised, or from fresh ones if `locked` is
    `model.init(...)`. A step takes `(x, answers)`, inputs and what the oracle answers, and gives the
    loss: the mean of `task.match`, for classes KL(oracle || copy). Answers that are not finite are left
    out.

    Args:
        model: The architecture.
        learning_rate: Adam's; may be traced.
        example: Inputs `[B, ...]`, of which only shapes and dtypes count.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, answers))` gives the loss, a float32.

    Threat model: the attacker may ask a model that has the key, a user's device or a service, for its
    answers to inputs of the attacker's own, and has no labels and no key. A lock guards the file, not
    the answers: what bounds this thief is the number of answers.

    **Guarantees.** None for the owner. Print it beside training from scratch on as many labels: a
    copy that started from locked weights and does no better than a fresh one got nothing from them.

    Source: Hinton et al. (2015); as an attack, Tramèr et al. (2016) and Orekondy et al. (2019).

    >>> import jax, jax.numpy as jnp
    >>> from modellock_jax.attacks import run_batches
    >>> from modellock_jax.models import mlp
    >>> model = mlp(2, widths=())
    >>> attack = distil(model, 0.1, jnp.zeros((1, 1, 1, 2)))
    >>> params = model.init(jax.random.key(1), jnp.zeros((1, 1, 1, 2)))
    >>> state = attack.init(jax.random.key(0), params)
    >>> x = jax.random.normal(jax.random.key(2), (64, 1, 1, 2))
    >>> oracle = 5 * x[:, 0, 0]
    >>> repeated = jax.tree.map(lambda a: jnp.stack([a] * 60), (x, oracle))
    >>> state, losses = run_batches(attack, state, repeated)
    >>> bool((attack.forward(state, x).argmax(-1) == oracle.argmax(-1)).mean() > 0.9)
    True
    """
    optimizer = optax.adam(learning_rate)

    def loss(params: Params, x: Any, answers: Any) -> tuple[jax.Array, Params]:
        out, params = model.train(params, x)
        return task.match(out, answers).sum() / jnp.maximum(finite(answers).sum(), 1), params

    def init(rng: jax.Array, locked: Params) -> Any:
        params = jax.jit(sanitise)(locked, model.init(rng, blank(example)))
        return params, optimizer.init(params)

    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, opt_state = state
        found, gradient = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        # found[1] holds the new statistics; their gradient, and so their update, is zero.
        return (optax.apply_updates(found[1], updates), opt_state), found[0]

    def forward(state: Any, x: Any) -> Any:
        return model.forward(state[0], x)

    return Attack(init, step, forward)


def _distil(case: Case, **settings: Any) -> Found:
    attack, score = bind(_copying, case.model, case.task), bind(_agreement, case.task)
    x = case.unlabelled
    return fit_best_rate(case, attack, score, case.locked, x, case.device(x), **settings)


def _copying(model: Model, task: Task, rate: Any, example: Any) -> Attack:
    return distil(model, rate, example, task)


def _agreement(task: Task, out: Any, answers: Any) -> jax.Array:
    """How far a copy answers as the device does: by the classes named where there are some."""
    if task.match is kl_divergence:
        return (out.argmax(-1) == answers.argmax(-1)).mean()
    return -task.match(out, answers).mean()


ENTRIES = (Entry("distil", _distil, ANY, ("unlabelled", "device"), "weights"),)
