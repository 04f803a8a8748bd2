"""The work of the matrix: rehearsals, thieves, twins, and the pilot that fixes their number."""

import functools
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.case import Case
from modellock_jax.attacks.table import ATTACKS
from modellock_jax.study import _matrix_cases as cases
from modellock_jax.study._bases import Examples
from modellock_jax.study.attackers import ATTACKERS, SETTINGS, Attacker, candidates
from modellock_jax.study.context import Context
from modellock_jax.study.engine import Row
from modellock_jax.study.family import draws_needed, p_value
from modellock_jax.study.store import write
from modellock_jax.study.training import PLAIN

BEYOND_CHANCE = 0.01
"""The level at which a thief leaves the twin's setting of an attack for another."""

PILOT = "labels-1%"
"""Whose thefts of the control say how many its row needs."""

_PILOT_DRAWS = (
    10_000  # those of the pilot are counted from here: no theft under study is among them
)


def others(context: Context) -> range:
    """Return the numbers of the models that are not under study, but rehearsed on."""
    c = context.config
    return range(c.seeds, c.seeds + c.rehearsals)


def cell_rows(context: Context, text: str, name: str, seed: int) -> list[Row]:
    """Let an attacker loose on one model."""
    attacker, choice = ATTACKERS[name], _chosen(context, text, name, False)
    no_key, right = _without_and_with_the_key(context, text, seed)
    idle = _idle(context, text, attacker, seed, (context.data.test_x, context.data.test_y))
    values, gave_up, seconds = [], 0, 0.0
    for draw in range(_draws(context, text, attacker)) if choice else ():
        begin = time.perf_counter()
        forward = _stolen(context, text, attacker, seed, draw, choice)
        seconds = seconds or time.perf_counter() - begin
        gave_up += forward is None
        values.append(idle if forward is None else _test(context, forward))
    return [
        {
            "id": f"cell/{text}/{name}/{seed}",
            "kind": "cell",
            **context.about,
            "lock": text,
            "attacker": name,
            "seed": seed,
            **_named(choice),
            "no_key": no_key,
            "right_key": right,
            "idle": idle,
            "values": values,
            "gave_up": gave_up,
            "images": attacker.count(cases.split(context.config.data).size),
            "seconds": seconds,
        }
    ]


@functools.lru_cache(maxsize=16)
def _without_and_with_the_key(context: Context, text: str, seed: int) -> tuple[float, float]:
    """Score one model without its key and with it, once for all attackers."""
    model = cases.locked_model(context, text, seed)
    user = functools.partial(cases.user_of(context, text), model.key, model.locked)
    return float(context.score(model.locked).value), _test(context, user)


def twin_rows(context: Context, text: str, name: str, seed: int) -> list[Row]:
    """Let the twin of an attacker try as often, without the locked weights."""
    attacker, choice = ATTACKERS[name], _chosen(context, text, name, True)
    values = [
        _test(context, _copied(context, text, attacker, seed, draw, choice))
        for draw in range(_draws(context, context.config.control, attacker))
    ]
    about = {"lock": text, "attacker": name, "seed": seed, **_named(choice), "values": values}
    return [{"id": f"twin/{text}/{name}/{seed}", "kind": "twin", **context.about, **about}]


def rehearsal_id(text: str, name: str, twin: bool) -> str:
    return f"rehearsal/{'twin' if twin else 'thief'}/{text}/{name}"


def rehearsal_rows(context: Context, text: str, name: str, twin: bool) -> list[Row]:
    """Try all attacks on other models, and leave what was found for the other units."""
    place = rehearsal_id(text, name, twin)
    return _left(context, place, lambda: _rehearsed(context, text, name, twin))


def _left(context: Context, place: str, make: Callable[[], Row]) -> list[Row]:
    """Return a row from the run folder, or make it and leave it there for units that build on it."""
    file = context.folder / "left" / f"{place}.json"
    if not file.exists():
        row = {"id": place, "kind": place.split("/")[0], **context.about, **make()}
        write(file, json.dumps(row).encode())
    return [json.loads(file.read_text())]


def _rehearsed(context: Context, text: str, name: str, twin: bool) -> Row:
    c, attacker = context.config, ATTACKERS[name]
    known = candidates("" if twin else context.subjects[text].scheme, attacker)
    tried: list[Row] = [
        {"attack": attack, "setting": json.dumps(settings) if settings else "", "values": []}
        for attack, settings in known
    ]
    numbers, judges = others(context), cases.split(c.data).judges
    steal = _copied if twin else _stolen
    idle = [_idle(context, text, attacker, number, judges) for number in numbers]
    for one in tried:
        draws = range(c.rehearsal_draws if one["attack"] in SETTINGS else 1)
        for draw, (at, number) in itertools.product(draws, enumerate(numbers)):
            forward = steal(context, text, attacker, number, draw, one)
            one["values"].append(idle[at] if forward is None else _value(context, forward, judges))
    usual = {} if twin else _usual(context, text, attacker)
    about = {"lock": text, "attacker": name, "twin": twin, "tried": tried, "idle": idle}
    return about | {"chosen": _choose(context, tried, idle, usual)}


def _usual(context: Context, text: str, attacker: Attacker) -> Row:
    """Return the attack and the setting that serve the twin best; none for one who does not train."""
    if attacker.twin != "trains":
        return {}
    return _chosen(context, cases.twin_of(context, text, attacker), attacker.name, True)


def _choose(context: Context, tried: list[Row], idle: list[float], usual: Row) -> int:
    """Return which attack did best; -1 if doing nothing was as good.

    Of an attack that the twin can run, the twin's setting stands unless another is better beyond
    chance: else thief and twin would differ by the luck of their rehearsals alone.
    """
    sign = 1 if context.task.best > context.task.chance else -1
    means = [sign * float(np.mean(one["values"])) for one in tried]
    stands = [one for one in tried if usual and _named(one) == _named(usual)]
    for at, one in enumerate(tried):
        if stands and one is not stands[0] and one["attack"] == usual["attack"]:
            gains = sign * np.subtract(one["values"], stands[0]["values"])
            if gains.mean() <= 0 or p_value(gains) > BEYOND_CHANCE:
                means[at] = -np.inf
    best = int(np.argmax(means)) if means else -1
    return best if best >= 0 and means[best] > sign * np.mean(idle) else -1


def _chosen(context: Context, text: str, name: str, twin: bool) -> Row:
    """Return the attack and the setting that the rehearsal chose; nothing if none did any good."""
    row = rehearsal_rows(context, text, name, twin)[0]
    return row["tried"][row["chosen"]] if row["chosen"] >= 0 else {}


def _named(choice: Row) -> Row:
    return {name: choice.get(name, "") for name in ("attack", "setting")}


def _stolen(
    context: Context, text: str, attacker: Attacker, number: int, draw: int, choice: Row
) -> Any:
    """Run an attack on a locked model; return the attacker's forward, or None if it gave up."""
    if not ATTACKS[choice["attack"]].needs:
        return _by_weights_alone(context, text, number, choice["attack"], choice["setting"])
    return _attack(cases.thief(context, text, attacker, number, draw), choice)


def _copied(
    context: Context, text: str, attacker: Attacker, number: int, draw: int, choice: Row
) -> Any:
    """Let the twin of an attacker run the same attack."""
    return _attack(cases.twin(context, text, attacker, number, draw), choice)


@functools.lru_cache(maxsize=64)
def _by_weights_alone(context: Context, text: str, number: int, attack: str, setting: str) -> Any:
    """Run an attack that needs no right: for all attackers it is the same."""
    case = cases.thief(context, text, ATTACKERS["weights"], number, 0)
    return _attack(case, {"attack": attack, "setting": setting})


def _attack(case: Case, choice: Row) -> Any:
    """Run an attack with its own rights, to its end."""
    entry, settings = ATTACKS[choice["attack"]], json.loads(choice["setting"] or "{}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    found = entry.attack(case.only(*entry.needs), **settings)
    if found is None or found.forward is None:
        return None
    jax.block_until_ready(found.forward(case.example))
    return found.forward


def _value(context: Context, forward: Any, examples: Examples) -> float:
    return float(context.measure(forward, *map(jnp.asarray, examples)).value)


def _test(context: Context, forward: Any) -> float:
    return _value(context, forward, (context.data.test_x, context.data.test_y))


def _idle(
    context: Context, text: str, attacker: Attacker, number: int, examples: Examples
) -> float:
    """Return what one reaches who attacks nothing: by their own copy, by the base, or by a guess."""
    if attacker.twin == "user":
        model = cases.locked_model(context, text, number)
        user = cases.user_of(context, text)
        return _value(context, functools.partial(user, model.key, model.locked), examples)
    if attacker.twin == "base":
        base = cases.plain_models(context, number)[0]
        return _value(context, functools.partial(context.model.forward, base), examples)
    return context.prior


def pilot_rows(context: Context) -> list[Row]:
    """Let thieves and twins loose on the control, to fix how many draws of a model its row needs."""
    return _left(context, f"pilot/{context.config.control}", lambda: _pilot(context))


def _pilot(context: Context) -> Row:
    c, attacker = context.config, ATTACKERS[PILOT]
    choice, found = _usual(context, c.control, attacker), {}
    numbers = others(context)
    draws = range(_PILOT_DRAWS, _PILOT_DRAWS + c.pilot_draws)
    for who, steal, text in (("thief", _stolen, c.control), ("twin", _copied, PLAIN)):
        found[who] = [
            [_test(context, steal(context, text, attacker, n, d, choice)) for d in draws]
            for n in numbers
        ]
    comparisons = sum(ATTACKERS[name].twin == "trains" for name in c.attackers)
    about = {"lock": c.control, "attacker": PILOT, **found}
    about |= {"half_width": c.half_width, "comparisons": max(1, comparisons)}
    gains = (np.array(found["thief"]) - np.array(found["twin"])).tolist()
    draws_then = draws_needed(gains, c.seeds, about["comparisons"], c.half_width, most=c.most_draws)
    return about | {"draws": draws_then}


def _draws(context: Context, text: str, attacker: Attacker) -> int:
    """How many thefts of a model: of the control as many as the pilot says, else one."""
    c = context.config
    if attacker.twin != "trains" or text != c.control or text not in context.subjects:
        return 1
    return int(pilot_rows(context)[0]["draws"])
