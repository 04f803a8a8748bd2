"""The league: every lock against every attack on it, on real images."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax._progress import bar
from modellock_jax.attacks.case import Case, Copy, Entry
from modellock_jax.attacks.table import ATTACKS, attempt
from modellock_jax.core.lock import Key, Params, user_forward
from modellock_jax.study.config import Config, locks_and_variants
from modellock_jax.study.measures import MEASURES, Locked, Measure, agreement
from modellock_jax.study.processes import ALONE, Part
from modellock_jax.study.report import Grid, interval
from modellock_jax.study.run import train_share, trained
from modellock_jax.study.store import Store
from modellock_jax.study.subjects import Bench, Subject, fresh, prepare, rng_for, score
from modellock_jax.tasks import margin_loss

LOCKS = locks_and_variants()
NAMES = tuple(name for name, entry in ATTACKS.items() if entry.gives != "inputs")
"""The attacks of a whole league: those on the lock, not those on what the user's model answers."""

SETTINGS: dict[str, Any] = {"locks": LOCKS, "budgets": (0.01,)}
"""What the league changes in a configuration: variants of the locks, and one budget."""


def run(
    config: Config,
    out: Path,
    names: tuple[str, ...] = NAMES,
    part: Part = ALONE,
) -> Store:
    """Run the attacks called `names` on every lock they are against; `config.budgets[0]` is the
    attacker's share of the training set.

    Every row is kept as soon as it is finished; running again skips finished rows. One of several
    processes computes its `part` of them, and process 0 merges them. Raises `ValueError` for an
    unknown attack, one that is against none of the locks, and what `prepare` raises, before anything
    is written; and `ConnectionError` if a process ended that this one waits for.
    """
    for name in names:
        if name not in ATTACKS:
            raise ValueError(f"there is no attack {name!r}; the attacks are {', '.join(ATTACKS)}")
    bench = prepare(config)
    # A league of all attacks measures the locks too.
    table = {name: ATTACKS[name] for name in names} | (MEASURES if names == NAMES else {})
    todo = [
        (subject, seed, name)
        for subject in bench.subjects
        for seed in range(config.seeds)
        for name, entry in table.items()
        if entry.fits(subject.scheme) and _given(subject, entry)
    ]
    if not todo:
        against = "; ".join(f"{name}: {', '.join(ATTACKS[name].against)}" for name in names)
        raise ValueError(f"no attack named is against a lock given; {against}")
    store, models, at = Store(out, config, part), list[Locked](), ("", -1)
    train_share(bench, store, [subject for subject, _, _ in todo])
    with bar() as shown:
        task = shown.add_task("the league", total=len(todo))
        for subject, seed, name in todo:
            kind = name if name in MEASURES else "league"
            row_id = f"{kind}/{subject.text}/{seed}/{name}"
            if store.takes(row_id):
                if at[0] != subject.text:
                    models = locked_models(bench, store, subject)
                if at != (subject.text, seed):
                    case, about = _case(bench, subject, seed, models[seed])
                    at = subject.text, seed
                if name in MEASURES:
                    found = MEASURES[name].run(bench, subject, seed, models[seed])
                else:
                    found = _attacked(bench, case, name, about, models[seed].key)
                store.add({"id": row_id, "kind": kind, **about, **found})
            shown.advance(task)
    store.finish()
    return store


def locked_models(bench: Bench, store: Store, subject: Subject) -> list[Locked]:
    """A locked model for each seed."""
    encrypt, found = _encrypt(bench, subject), []
    for seed in range(bench.config.seeds):
        params, key = trained(bench, store, subject, seed)
        if not subject.trained_under:
            key = jax.jit(subject.lock.init)(rng_for(seed, "key"), params)
        found.append(Locked(params, *encrypt(key, params)))
    return found


def _encrypt(bench: Bench, subject: Subject) -> Callable[[Key, Params], tuple[Params, Key]]:
    """The lock's encrypt, with the loss of the first training images where it takes one."""
    model, data = bench.model, bench.data

    @jax.jit
    def encrypt(key: Key, params: Params, x: jax.Array, y: jax.Array) -> tuple[Params, Key]:
        return subject.lock.encrypt(key, params, lambda p: margin_loss(model.forward(p, x), y))

    sample = jnp.asarray(data.train_x[:512]), jnp.asarray(data.train_y[:512])
    return lambda key, params: encrypt(key, params, *sample)


def _given(subject: Subject, entry: Entry | Measure) -> bool:
    """Whether such an attacker exists: where models are trained under their key, each has one user."""
    needs = entry.needs if isinstance(entry, Entry) else ()
    return not (subject.trained_under and {"other_copy", "more_copies"} & set(needs))


def _case(bench: Bench, subject: Subject, seed: int, owned: Locked) -> tuple[Case, dict[str, Any]]:
    """A locked model with all that an attacker may have, and the beginning of its rows."""
    lock, model, data = subject.lock, bench.model, bench.data
    params, locked, key = owned
    count = max(10, round(bench.config.budgets[0] * len(data.train_x)))
    mine = jax.random.permutation(rng_for(seed, "thief"), len(data.train_x))[:count]
    x, y = jnp.asarray(data.train_x)[mine], jnp.asarray(data.train_y)[mine]
    device = partial(jax.jit(user_forward(lock, model.forward)), key, locked)
    rights: dict[str, Any] = {"unlabelled": x, "labels": (x, y), "device": device}
    rights |= {"chosen_input": partial(lock.scramble, key)}
    # The strongest of their kind: known weights and the public base are the plain model itself.
    rights |= {"known_weights": params, "public_base": params}
    if not subject.trained_under:
        copies = [_again(bench, subject, params, rng_for(seed, f"copy {i}")) for i in range(3)]
        rights |= {"other_copy": copies[0], "more_copies": [copy.locked for copy in copies[1:]]}
        other = fresh(bench, seed)
        rights |= {"reused_stream": (_encrypt(bench, subject)(key, other), other)}
    case = Case(
        lock, model, locked, rng_for(seed, "attack"), jnp.zeros((1, *bench.shape)),
        scheme=subject.scheme, settings=subject.settings, **rights,
    )  # fmt: skip
    about = {"lock": subject.text, "seed": seed}
    about |= {"no_key": accuracy_of(bench, partial(model.forward, locked))}
    return case, about | {"right_key": accuracy_of(bench, device)}


def _again(bench: Bench, subject: Subject, params: Params, rng: jax.Array) -> Copy:
    """Another user's copy of the same parameters."""
    return Copy(*_encrypt(bench, subject)(jax.jit(subject.lock.init)(rng, params), params))


def _attacked(bench: Bench, case: Case, name: str, about: dict[str, Any], key: Any) -> dict:
    begin = time.perf_counter()
    found = attempt(name, case)
    if found is not None and found.forward is not None:
        jax.block_until_ready(found.forward(case.example))
    row: dict[str, Any] = {"attack": name, "needs": list(ATTACKS[name].needs)}
    row |= {"seconds": time.perf_counter() - begin, "gave_up": found is None, "key_right": None}
    # An attack that gives up leaves what there was without it.
    if found is None:
        return (
            row
            | {"accuracy": about["no_key"]}
            | dict.fromkeys(("images", "queries"), 0)
            | {"flops": None}
        )
    if found.forward is None:
        assert found.moved is not None
        moved = score(case.device, found.moved, case.labels[1])
        row |= {"accuracy": float(moved.accuracy)}
    else:
        row |= {"accuracy": accuracy_of(bench, found.forward)}
    row |= {"images": found.inputs, "queries": found.queries}
    row |= {"flops": _flops(case, found.passes)}
    if type(found.key) is type(key):
        row["key_right"] = float(agreement(found.key, key))
    return row


def _flops(case: Case, passes: int) -> float | None:
    """Floating-point operations of so many plain forwards of one image, as XLA counts them."""
    cost = jax.jit(case.model.forward).lower(case.locked, case.example).compile().cost_analysis()
    return None if cost is None else passes * float(cost["flops"])


def accuracy_of(bench: Bench, forward: Any) -> float:
    """Test accuracy of `forward(x) -> logits`."""
    x, y = jnp.asarray(bench.data.test_x), jnp.asarray(bench.data.test_y)
    return float(jax.jit(lambda x, y: score(forward, x, y).accuracy)(x, y))


def attack_grid() -> Grid:
    """Every attack: what it is against, and what the attacker has."""
    rows = [
        [name, ", ".join(entry.against), entry.has, entry.gives] for name, entry in ATTACKS.items()
    ]
    return Grid("The attacks", ["attack", "against", "the attacker has", "it gives"], rows, [])


def grid(store: Store, config: Config, names: tuple[str, ...] = tuple(ATTACKS)) -> Grid:
    """One row per lock and attack, over all seeds."""
    budget = f"{100 * config.budgets[0]:g} % of the training images"
    title = (
        f"The league: {config.data}, {config.model}, seeds: {config.seeds}, attackers with {budget}"
    )
    header = ["lock", "attack", "no key", "recovered [95 %]", "right key", "key found, %"]
    table = Grid(
        title, [*header, "images", "queries", "seconds", "GFLOP", "the attacker has"], [], []
    )
    for rows in _together(store, names):
        table.rows.append(_line(rows))
        gave_up = sum(row["gave_up"] for row in rows)
        if 0 < gave_up < len(rows):
            about = f"{rows[0]['attack']} gave up on {gave_up} of {len(rows)} models"
            table.notes.append(f"{about} under {rows[0]['lock']}.")
    table.notes.append(
        "GFLOP: what the attacker's own passes of images through the model take, a backward pass "
        "counted as two forward ones; 0 where the work is not the model's. Seconds hold compilation."
    )
    return table


def strongest(store: Store, config: Config) -> Grid:
    """One row per lock: of the attacks within a point of the best one the quickest, beside scratch."""
    full = grid(store, config)
    table = Grid("Which lock fell, to what, at what cost", [*full.header, "scratch"], [], [])
    groups = _together(store, tuple(ATTACKS))
    for lock in config.locks:
        mine = {rows[0]["attack"]: rows for rows in groups if rows[0]["lock"] == lock}
        scratch = mine.pop("scratch", [])
        if not mine:
            continue
        reached = {name: sum(row["accuracy"] for row in rows) for name, rows in mine.items()}
        near = [
            rows
            for name, rows in mine.items()
            if reached[name] > max(reached.values()) - 0.01 * len(rows)
        ]
        quickest = min(near, key=lambda rows: sum(row["seconds"] for row in rows))
        table.rows.append([*_line(quickest), _mean(scratch, "accuracy", 100)])
    table.notes.append("scratch: training from nothing on the same images, with the same settings.")
    return table


def _together(store: Store, names: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """The rows of all seeds together, by lock and attack."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in (row for row in store.of("league") if row["attack"] in names):
        found.setdefault((row["lock"], row["attack"]), []).append(row)
    return list(found.values())


def _line(rows: list[dict[str, Any]]) -> list[str]:
    mean, low, high = interval([100 * row["accuracy"] for row in rows])
    spread = f" [{max(low, 0):.1f}, {min(high, 100):.1f}]" if len(rows) > 1 else ""
    keys = [row["key_right"] for row in rows if row["key_right"] is not None]
    return [
        rows[0]["lock"],
        rows[0]["attack"],
        _mean(rows, "no_key", 100),
        "gave up" if all(row["gave_up"] for row in rows) else f"{mean:.1f}{spread}",
        _mean(rows, "right_key", 100),
        f"{100 * sum(keys) / len(keys):.1f}" if keys else "",
        str(max(row["images"] for row in rows)),
        str(max(row["queries"] for row in rows)),
        _mean(rows, "seconds", 1),
        _gflop(rows),
        ATTACKS[rows[0]["attack"]].has,
    ]


def _gflop(rows: list[dict[str, Any]]) -> str:
    counts = [row["flops"] / 1e9 for row in rows if row["flops"] is not None]
    return f"{sum(counts) / len(counts):.3g}" if counts else ""


def _mean(rows: list[dict[str, Any]], field: str, unit: float) -> str:
    return f"{unit * sum(row[field] for row in rows) / len(rows):.1f}" if rows else ""
