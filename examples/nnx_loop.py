"""Train a Flax NNX model with BatchNorm and dropout under a key, in a loop of your own.

python examples/nnx_loop.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import modellock_jax as ml

EPOCHS, BATCH = 8, 64


class Net(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(
            64, rngs=rngs
        )  # before the first mask: after one it gives it away
        self.first, self.last = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.first(self.norm(x)))))


def main():
    digits = load_digits()
    x, y = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    test = slice(300)

    net = Net(nnx.Rngs(0))
    params, lock = ml.nnx_params(net), ml.sign_mask(bits=64)
    key = lock.init(jax.random.key(1), params)
    net.train()
    owner = ml.owner_forward(lock, ml.from_nnx(net, mutable=True))
    optimizer = optax.adam(2e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y, rng):
        def loss(params):
            logits, updated = owner(key, params, x, rng=rng)  # with BatchNorm's new statistics
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return entropy, updated

        gradient, params = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    for epoch in range(EPOCHS):
        rng = jax.random.key(epoch)
        order = jax.random.permutation(rng, len(x) - 300) + 300
        for i, batch in enumerate(order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)):
            params, state = step(params, state, x[batch], y[batch], jax.random.fold_in(rng, i))

    net.eval()  # the forward follows the module's mode
    forward = ml.from_nnx(net)
    user = ml.user_forward(lock, forward)
    found = {
        "right key": (user(key, params, x[test]).argmax(-1) == y[test]).mean(),
        "no key": (forward(params, x[test]).argmax(-1) == y[test]).mean(),
    }
    print({name: round(float(value), 3) for name, value in found.items()}, "of 300 test images")
    return found


if __name__ == "__main__":
    main()
