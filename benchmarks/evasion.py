"""Whether a secret key keeps adversarial examples away: robust accuracy with and without it.

    python benchmarks/evasion.py [--seeds 2] [--json results/evasion.json]

The study's CNN on mnist5k: plain, under pixel_shuffle(block=14), under sign_mask(per='unit'). The
user's model, with the right key, is attacked on the first 256 test images. A row is the user's
accuracy under one attack at each eps. What the attacker has:

- `known`: the key. `unknown`: the weights only; his images come from the forward without a key.
- `expectation`: the weights and 8 random keys; gradients averaged over them.
- `surrogate`: a plain model of his own, trained on the same data.
- `queries`: the user's answers to 300 images of his for each image (the random search `square`).
- `nothing`: noise of +-eps in every pixel, the yardstick for all without the key.

For each lock one more row has the signs of gradient masking at eps 0.1. PGD and APGD take 40 steps.
"""

import argparse
import datetime
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from command import command
from jax import lax
from rich.console import Console
from rich.table import Table

from modellock_jax.attacks.evasion.gradient_masking import gradient_masking
from modellock_jax.attacks.evasion.methods import apgd, expectation, fgsm, pgd, square, transfer
from modellock_jax.core.lock import Lock, owner_forward, user_forward
from modellock_jax.data import load
from modellock_jax.models import Model, cnn
from modellock_jax.study.context import subject_of
from modellock_jax.study.report import machine
from modellock_jax.tasks import random_shift
from modellock_jax.train import fit

EPS = (0.05, 0.1, 0.2, 0.3)
IMAGES, KEYS, STEPS, QUERIES = 256, 8, 40, 300
PLAIN = Lock(lambda rng, params: ())
ATTACKS: dict[str, Callable[..., Any]] = {
    "fgsm": lambda f, x, y, eps, rng: fgsm(f, x, y, eps),
    "pgd": functools.partial(pgd, steps=STEPS),
    "apgd-ce": functools.partial(apgd, steps=STEPS),
    "apgd-dlr": functools.partial(apgd, steps=STEPS, loss="dlr"),
}
SQUARE = functools.partial(square, queries=QUERIES)


def answer(lock: Lock, model: Model, key: Any, params: Any, x: jax.Array) -> jax.Array:
    """The user's logits with a key."""
    return user_forward(lock, model.forward)(key, params, x)


def mean_answer(lock: Lock, model: Model, keys: Any, params: Any, x: jax.Array) -> jax.Array:
    """The logits with each of many keys, as `expectation` gives them."""
    return expectation(lambda key, x: answer(lock, model, key, params, x), keys)(x)


def measure(seed: int) -> Iterator[dict[str, Any]]:
    """All rows of one seed: training, keys, random starts."""
    data, model = load("mnist5k"), cnn(10)
    x, y = jnp.asarray(data.test_x[:IMAGES]), jnp.asarray(data.test_y[:IMAGES])
    inits, keys, fits, starts, draws = jax.random.split(jax.random.key(seed), 5)
    fresh = model.init(inits, jnp.zeros((1, *x.shape[1:])))
    plain_images: dict[str, jax.Array] = {}
    surrogate: Any = None

    @jax.jit
    def score(f: Any, images: jax.Array) -> jax.Array:
        return lax.map(lambda a: transfer(f, x, y, a).share, images)

    def rows(f: Any, images: dict[str, jax.Array], **about: Any) -> Iterator[dict[str, Any]]:
        for name, made in images.items():
            yield about | {"attack": name, "accuracy": score(f, made).tolist()}

    @functools.partial(jax.jit, static_argnums=0)
    def image_by(attack: Any, f: Any, rng: jax.Array) -> jax.Array:
        return lax.map(lambda e: attack(f, x, y, e, rng).inputs, jnp.array(EPS))

    def images_by(f: Any, attacks: dict[str, Any], rng: jax.Array) -> dict[str, jax.Array]:
        """The images `[eps, B, H, W, C]` of each attack on `f`."""
        return {name: image_by(one, f, rng) for name, one in attacks.items()}

    for text in ("plain", "pixel_shuffle(block=14)", "sign_mask(per='unit')"):
        lock = PLAIN if text == "plain" else subject_of(text, x.shape[1:]).lock
        key = lock.init(keys, fresh)
        params, _ = fit(
            functools.partial(owner_forward(lock, model.train), key),
            fresh,
            data.train_x,
            data.train_y,
            rng=fits,
            epochs=15,
            batch_size=128,
            learning_rate=4e-3,
            augment=random_shift,
            progress=f"{text}, seed {seed}",
        )
        # Partials are trees: jit takes their weights as arguments, not as constants to fold.
        respond = functools.partial(answer, lock, model)
        user = jax.tree_util.Partial(respond, key, params)
        about = {"lock": text, "seed": seed, "clean": float(transfer(user, x, y, x).share)}
        known = images_by(user, ATTACKS, starts)
        yield from rows(user, known, **about, attacker="known")
        ball = jnp.array(EPS)[:, None, None, None, None]
        noise = jnp.clip(x + ball * jax.random.rademacher(draws, x.shape, x.dtype), 0, 1)
        yield from rows(user, {"noise": noise}, **about, attacker="nothing")
        yield from rows(
            user, images_by(user, {"square": SQUARE}, draws), **about, attacker="queries"
        )
        if text == "plain":
            plain_images, surrogate = known, user
        else:
            yield from rows(user, plain_images, **about, attacker="surrogate")
            thief = jax.tree_util.Partial(model.forward, params)
            yield from rows(user, images_by(thief, ATTACKS, starts), **about, attacker="unknown")
            guesses = jax.vmap(lock.init, (0, None))(jax.random.split(draws, KEYS), fresh)
            average = functools.partial(mean_answer, lock, model)
            mean = jax.tree_util.Partial(average, guesses, params)
            yield from rows(user, images_by(mean, ATTACKS, starts), **about, attacker="expectation")
        flags = gradient_masking(
            user,
            x,
            y,
            0.1,
            draws,
            attack=ATTACKS["apgd-ce"],
            surrogate=surrogate if text != "plain" else None,
            queries=QUERIES,
        )
        yield about | {"flags": {name: float(value) for name, value in flags._asdict().items()}}


def main() -> None:
    """Run every row, print the table, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure adversarial examples on locked models.")
    parser.add_argument("--seeds", type=int, default=2, help="models for each lock")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    about: dict[str, Any] = {"command": command(), "data": "mnist5k", "model": "cnn"}
    about |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    settings = {"eps": EPS, "images": IMAGES, "keys": KEYS, "steps": STEPS, "queries": QUERIES}
    done: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for row in measure(seed):
            done.append(row)
            print(json.dumps(row), flush=True)
            if options.json is not None:
                text = json.dumps(about | settings | {"rows": done}, indent=1)
                options.json.write_text(text + "\n")
    table = Table("lock", "attacker", "attack", "clean", *(f"eps {eps}" for eps in EPS))
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in done:
        if "attack" in row:
            found.setdefault((row["lock"], row["attacker"], row["attack"]), []).append(row)
    for name, same in found.items():
        shares = [[row["clean"], *row["accuracy"]] for row in same]
        means = [100 * sum(column) / len(same) for column in zip(*shares)]
        table.add_row(*name, *(f"{mean:.1f}" for mean in means))
    Console(width=120).print(table)
    print(f"Mean accuracy in % of {options.seeds} seed(s).", about["date"], about["machine"])


if __name__ == "__main__":
    main()
