"""The fine-tuning thief: trains on the stolen weights with a little data of the same kind."""

from typing import Any

import jax
import optax

from modellock_jax.attacks.attack import Attack, sanitise
from modellock_jax.base import Params
from modellock_jax.models import Model
from modellock_jax.train import sgd_step


def fine_tune(model: Model, learning_rate: Any, image_shape: tuple[int, ...]) -> Attack:
    """Full fine-tuning with Adam, all layers, without the key.

    Threat model: the attacker has the architecture, the locked weights and labelled data; not the
    key. `learning_rate` may be traced. Weights are sanitised first. A step takes `(x, y)`, images
    `[B, H, W, C]` and labels int32 `[B]`, and gives the loss. Training from scratch is the same
    attack on freshly initialised weights: print it beside every figure.

    Source: the thief of Chakraborty et al. (2020) and AprilPyone & Kiya (2020).
    """
    optimizer = optax.adam(learning_rate)

    def init(rng: jax.Array, locked: Params) -> Any:
        fresh = model.init(rng, jax.numpy.zeros((1, *image_shape)))
        params = jax.jit(sanitise)(locked, fresh)
        return params, optimizer.init(params)

    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, opt_state, loss = sgd_step(model.train, optimizer, *state, *batch)
        return (params, opt_state), loss

    def forward(state: Any, x: jax.Array) -> jax.Array:
        return model.forward(state[0], x)

    return Attack(init, step, forward)
