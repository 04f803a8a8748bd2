"""Write a task of your own: what a model is for, as pure functions. Here, to guess a number.

python examples/task_of_your_own.py
"""

import jax
import jax.numpy as jnp

import modellock_jax as ml
from modellock_jax.attacks import run_shuffled
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.models import Model
from modellock_jax.tasks import Task, finite, measure, unchanged

WORST = 1e6


def squares(out, y):
    """The squared error of each example `[B]`; one that is not finite is the worst there is."""
    return jnp.where(finite(out), jnp.minimum(jnp.square(out[:, 0] - y), WORST), WORST)


GUESS = Task(
    name="guess",
    unit="mean squared error",
    loss=squares,
    harm=lambda out, y: jnp.tanh(squares(out, y)).mean(),
    tally=lambda out, y: (squares(out, y).sum(), jnp.float32(len(y))),
    value=lambda tally: tally[0] / tally[1],
    chance=1.0,  # of who always says the mean
    best=0.0,  # below chance: less is better
    augment=unchanged,
    match=lambda out, answers: squares(out, answers[:, 0]),
)


def forward(params, x, tap=ml.untapped):
    return tap("last", jax.nn.relu(tap("first", x @ params["first"])) @ params["last"])


def init(rng, x):
    first, last = jax.random.split(rng)
    return {
        "first": jax.random.normal(first, (x.shape[1], 32)) / 2,
        "last": jax.random.normal(last, (32, 1)) / 6,
    }


def main():
    model = Model(
        init, forward, lambda params, x, tap=ml.untapped: (forward(params, x, tap), params)
    )
    x = jax.random.normal(jax.random.key(0), (512, 4))
    y = x[:, 0] * x[:, 1]
    thief = fine_tune(model, 1e-2, x[:1], task=GUESS)  # any attack that trains takes any task
    start = thief.init(jax.random.key(1), model.init(jax.random.key(2), x))
    state, _ = run_shuffled(thief, start, x, y, jax.random.key(3), steps=300)
    found = {
        name: float(measure(GUESS, lambda x, s=s: thief.forward(s, x), x, y).value)
        for name, s in (("before", start), ("after", state))
    }
    print(GUESS.unit, {name: round(value, 3) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
