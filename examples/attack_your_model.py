"""Attack a model of your own: state what the attacker has, and let every attack loose that fits.

python examples/attack_your_model.py
"""

import jax

import modellock_jax as ml
from modellock_jax import attacks
from modellock_jax.models import mlp


def main():
    model, x = mlp(10, (64,)), jax.random.uniform(jax.random.key(0), (16, 8, 8, 1))
    params = model.init(jax.random.key(1), x[:1])
    lock = ml.deep_lock()
    locked, key = lock.encrypt(lock.init(jax.random.key(2), params), params)

    # This attacker holds the file, and the public model that it was made from.
    case = attacks.Case(
        lock, model, locked, jax.random.key(3), x[:1], scheme="deep_lock", public_base=params
    )
    found = {}
    for name, entry in attacks.ATTACKS.items():
        if entry.fits("deep_lock") and set(entry.needs) <= set(case.rights):
            ended = attacks.attempt(name, case)
            exact = ended is not None and bool((ended.key.master == key.master).all())
            found[name] = exact
            print(f"{name}: {'the exact key' if exact else 'nothing'}; it needs {entry.has}")
    return found


if __name__ == "__main__":
    main()
