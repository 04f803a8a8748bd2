"""Images trained on a second: `fit` beside PyTorch, `fine_tune` of many seeds beside runs in a row."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modellock_jax.attacks.attack import run_shuffled
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.bench.timing import Row, alternate, matmul, row
from modellock_jax.models import cnn
from modellock_jax.train import make_epoch

__all__ = ["BATCH", "RATE", "SHAPE", "measure"]

BATCH, _SEEDS, RATE, SHAPE = 64, 8, 2e-3, (28, 28, 1)


def _fit(images: int) -> Callable[[], Any]:
    """One epoch of `fit` on the study's CNN, compiled outside the clock."""
    model, optimizer = cnn(10), optax.adam(RATE)
    x = jax.random.uniform(jax.random.key(0), (images, *SHAPE))
    y = jax.random.randint(jax.random.key(1), (images,), 0, 10)
    params = model.init(jax.random.key(2), x[:1])
    epoch = make_epoch(model.train, optimizer, images // BATCH, BATCH)
    held = [(params, optimizer.init(params))]

    def one_epoch() -> jax.Array:
        *state, loss = epoch(*held.pop(), jax.random.key(3), x, y)
        held.append(tuple(state))
        return loss

    return one_epoch


def _torch(images: int) -> Callable[[], Any] | None:
    """Return the same epoch in PyTorch, or None where it is not installed: same net, batch and Adam."""
    try:
        import torch
    except ImportError:
        return None
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 32, 7, stride=7), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip
    x, y = torch.rand(images, 1, 28, 28), torch.randint(0, 10, (images,))
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)

    def epoch() -> None:
        for index in torch.randperm(images).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()

    return epoch


def _seeds(images: int, steps: int) -> dict[str, Callable[[], Any]]:
    """Fine-tuning from `_SEEDS` seeds: in one vmap, and one jitted run after another."""
    model = cnn(10)
    attack = fine_tune(model, RATE, jnp.zeros((1, *SHAPE)))
    x = jax.random.uniform(jax.random.key(0), (images, *SHAPE))
    y = jax.random.randint(jax.random.key(1), (images,), 0, 10)
    locked = model.init(jax.random.key(2), x[:1])

    def tune(rng: jax.Array) -> Any:
        start, order = jax.random.split(rng)
        return run_shuffled(
            attack, attack.init(start, locked), x, y, order, steps=steps, batch_size=BATCH
        )

    rngs = jax.random.split(jax.random.key(3), _SEEDS)
    together, alone = jax.jit(jax.vmap(tune)), jax.jit(tune)
    return {
        "8 runs in a row": lambda: [jax.block_until_ready(alone(rng)) for rng in rngs],
        "8 seeds in one vmap": lambda: together(rngs),
    }


def _flops() -> float:
    """Floating-point operations of one step of `fine_tune`, as the compiler counts them."""
    model = cnn(10)
    attack = fine_tune(model, RATE, jnp.zeros((1, *SHAPE)))
    x, y = jnp.zeros((BATCH, *SHAPE)), jnp.zeros(BATCH, jnp.int32)
    state = attack.init(jax.random.key(0), model.init(jax.random.key(1), x))
    compiled: Any = jax.jit(attack.step).lower(state, (x, y)).compile()
    return float(compiled.cost_analysis()["flops"])


def measure(quick: bool) -> list[Row]:
    """Measure images a second of training, forward and backward.

    Args:
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.
    """
    images, steps = (128, 2) if quick else (4096, 50)
    other = _torch(images)
    contestants = {"fit": _fit(images)} | ({} if other is None else {"PyTorch": other})
    seconds = alternate(contestants, 0.0 if quick else 15.0)
    case, rows = f"CNN, batch {BATCH}, Adam", []
    for name, taken in seconds.items():
        rate = images / float(np.median(taken))
        ours = name == "fit" and other is not None
        rows.append(
            row("training", case, name, rate, "images/s", limit="PyTorch",
                ratios=seconds["PyTorch"] / taken if ours else None,
                target=1.0 if ours else None)
        )  # fmt: skip
    if other is None:
        note = "torch is not installed"
        rows.append(row("training", case, "PyTorch", None, "images/s", note=note))
    product, gflops, product_name = matmul(quick)
    seconds = alternate(_seeds(images, steps) | {"matmul": product}, 0.0 if quick else 25.0)
    peak = gflops(seconds.pop("matmul"))
    row_by_row, flops = seconds["8 runs in a row"], _flops()
    for name, taken in seconds.items():
        rate = _SEEDS * steps * BATCH / float(np.median(taken))
        vmapped = taken is not row_by_row
        achieved = rate / BATCH * flops / 1e9
        note = (
            f"{flops / 1e6:.0f} MFLOP a step, so {achieved:.0f} GFLOP/s; {product_name}: {peak:.0f}, "
            f"{peak / achieved:.1f} times as many"
        )
        rows.append(
            row("training", f"fine_tune, {steps} steps", name, rate, "images/s",
                limit="8 runs in a row", ratios=row_by_row / taken if vmapped else None,
                target=2.0 if vmapped else None, note=note, gflop_per_s=achieved,
                matmul_gflop_per_s=peak)
        )  # fmt: skip
    return rows
