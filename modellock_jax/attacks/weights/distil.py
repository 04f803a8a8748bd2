"""The distilling thief: trains a copy on the answers of a model that works. No lock prevents it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from modellock_jax.attacks._train import fitted
from modellock_jax.attacks.attack import Attack, sanitise
from modellock_jax.attacks.case import ANY, Case, Entry, Found
from modellock_jax.core.lock import Params
from modellock_jax.models import Model


def distil(model: Model, learning_rate: Any, image_shape: tuple[int, ...]) -> Attack:
    """Train with Adam on the oracle's logits for images without labels.

    `init(rng, locked)` starts from the locked weights, sanitised, or from fresh ones if `locked` is
    `model.init(...)`. A step takes `(x, logits)`, images `[B, H, W, C]` and the oracle's answers
    float `[B, classes]`, and gives the loss: the mean of KL(oracle || copy). Answers that are not
    finite are left out. `learning_rate` may be traced.

    Threat model: the attacker may ask a model that has the key, a user's device or a service, for
    the logits of images of his own, and has no labels and no key. A lock guards the file, not the
    answers: what bounds this thief is how many answers he gets.

    **Guarantees.** None for the owner. Print it beside training from scratch on as many labels: a
    copy that started from locked weights and does no better than a fresh one got nothing from them.

    Source: Hinton et al. (2015); as an attack, Tramèr et al. (2016) and Orekondy et al. (2019).

    >>> import jax, jax.numpy as jnp
    >>> from modellock_jax.attacks import run
    >>> from modellock_jax.models import mlp
    >>> model = mlp(2, widths=())
    >>> attack = distil(model, 0.1, (1, 1, 2))
    >>> state = attack.init(jax.random.key(0), model.init(jax.random.key(1), jnp.zeros((1, 1, 1, 2))))
    >>> x = jax.random.normal(jax.random.key(2), (64, 1, 1, 2))
    >>> oracle = 5 * x[:, 0, 0]
    >>> repeated = jax.tree.map(lambda a: jnp.stack([a] * 60), (x, oracle))
    >>> state, losses = run(attack, state, repeated)
    >>> bool((attack.forward(state, x).argmax(-1) == oracle.argmax(-1)).mean() > 0.9)
    True
    """
    optimizer = optax.adam(learning_rate)

    def loss(params: Params, x: jax.Array, logits: jax.Array) -> tuple[jax.Array, Params]:
        answers, params = model.train(params, x)
        usable = jnp.isfinite(logits).all(-1, keepdims=True)
        target = jax.nn.log_softmax(jnp.where(usable, logits, 0))
        apart = jnp.exp(target) * (target - jax.nn.log_softmax(answers))
        return jnp.where(usable, apart, 0).sum() / jnp.maximum(usable.sum(), 1), params

    def init(rng: jax.Array, locked: Params) -> Any:
        params = jax.jit(sanitise)(locked, model.init(rng, jnp.zeros((1, *image_shape))))
        return params, optimizer.init(params)

    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, opt_state = state
        found, gradient = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        # found[1] holds the new statistics; their gradient, and so their update, is zero.
        return (optax.apply_updates(found[1], updates), opt_state), found[0]

    def forward(state: Any, x: jax.Array) -> jax.Array:
        return model.forward(state[0], x)

    return Attack(init, step, forward)


def _distil(case: Case, **settings: Any) -> Found:
    shape, answers = case.example.shape[1:], case.device(case.unlabelled)
    return fitted(
        case,
        lambda rate: distil(case.model, rate, shape),
        case.locked,
        case.unlabelled,
        answers,
        **settings,
    )


ENTRIES = (Entry("distil", _distil, ANY, ("unlabelled", "device"), "weights"),)
