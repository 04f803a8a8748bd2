"""Write an attack of your own: a function of a `Case`, and one record. Here: keys of a tiny lock.

python examples/attack_of_your_own.py
"""

import itertools

import jax
import jax.numpy as jnp

import modellock_jax as ml
from modellock_jax import attacks
from modellock_jax.attacks.case import with_key
from modellock_jax.models import mlp


def all_keys(case, *, bits=4):
    """The key of 2^bits under which labelled inputs are answered best."""
    x, y = case.labels  # reading a right that the record does not name raises NotGiven
    user = ml.user_forward(case.lock, case.model.forward)

    def errors(signs):
        return (user(ml.SignKey(signs), case.locked, x).argmax(-1) != y).sum()

    signs = jnp.array(list(itertools.product([-1, 1], repeat=bits)), jnp.int8)
    found = signs[jax.lax.map(errors, signs).argmin()]
    return with_key(case, ml.SignKey(found))


ENTRY = attacks.Entry(
    name="all_keys",
    attack=all_keys,
    against=("sign_mask", "sign_flip"),
    needs=("labels",),
    gives="key",
)


def main():
    attacks.ATTACKS.register(ENTRY)  # from now on studies, the command and `attempt` know it
    model, x = mlp(3, (4,)), jax.random.normal(jax.random.key(0), (64, 6))
    params = model.init(jax.random.key(1), x[:1])
    lock = ml.sign_mask(bits=4)
    key = lock.init(jax.random.key(2), params)
    y = ml.user_forward(lock, model.forward)(key, params, x).argmax(-1)
    case = attacks.Case(
        lock, model, params, jax.random.key(3), x[:1], scheme="sign_mask", labels=(x, y)
    )
    found = attacks.attempt("all_keys", case)
    print("found", found.key.signs, "of", key.signs, "with", found.passes, "passes")
    return found, key


if __name__ == "__main__":
    main()
