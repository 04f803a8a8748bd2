"""Train a Flax Linen model under a key, in a loop of your own.

python examples/linen_loop.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import modellock_jax as ml

EPOCHS, BATCH = 6, 64


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


def main():
    digits = load_digits()
    x, y = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    train, test = slice(300, None), slice(300)

    net, lock = Net(), ml.sign_mask(bits=64)
    params = net.init(jax.random.key(0), x[:1])
    key = lock.init(jax.random.key(1), params)
    forward = ml.from_linen(net)
    owner = ml.owner_forward(lock, forward)  # what is trained: each layer meets the key
    optimizer = optax.adam(2e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = owner(key, params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        gradient = jax.grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    for epoch in range(EPOCHS):
        order = jax.random.permutation(jax.random.key(epoch), len(x) - 300) + 300
        for batch in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            params, state = step(params, state, x[batch], y[batch])

    def accuracy(logits):
        return float((logits.argmax(-1) == y[test]).mean())

    user = ml.user_forward(lock, forward)
    wrong = lock.init(jax.random.key(2), params)
    found = {
        "right key": accuracy(user(key, params, x[test])),
        "wrong key": accuracy(user(wrong, params, x[test])),
        "no key": accuracy(forward(params, x[test])),
    }
    print(
        {name: round(value, 3) for name, value in found.items()}, "of", train.start, "test images"
    )
    return found


if __name__ == "__main__":
    main()
