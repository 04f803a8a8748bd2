"""Try a thousand wrong keys in one program: `vmap` over keys, in chunks that fit into memory.

python examples/thousand_keys.py
"""

import jax
import jax.numpy as jnp

import modellock_jax as ml
from modellock_jax.core.over_keys import over_keys

KEYS = 1000


def forward(params, x, tap=ml.untapped):
    h = jax.nn.relu(tap("first", x @ params["first"]))
    return tap("last", h @ params["last"])


def main():
    rng = jax.random.key(0)
    params = {
        "first": jax.random.normal(rng, (32, 64)) / 6,
        "last": jax.random.normal(rng, (64, 10)) / 8,
    }
    x = jax.random.normal(jax.random.key(1), (128, 32))
    lock = ml.sign_mask(bits=64)
    key = lock.init(jax.random.key(2), params)
    user = ml.user_forward(lock, forward)
    right = user(key, params, x).argmax(-1)

    keys = jax.vmap(lambda rng: lock.init(rng, params))(jax.random.split(jax.random.key(3), KEYS))

    @jax.jit
    def agreement(keys):
        def one(key):
            return (user(key, params, x).argmax(-1) == right).mean(dtype=jnp.float32)

        return over_keys(one, keys, chunk=50)

    found = agreement(keys)
    mean, most = 100 * found.mean(), 100 * found.max()
    print(f"{KEYS} wrong keys agree on {mean:.1f} % of inputs, at most {most:.1f} %")
    return found


if __name__ == "__main__":
    main()
