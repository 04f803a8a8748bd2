"""What the rows of the matrix have."""

from typing import Annotated, TypedDict

from modellock_jax.study.rows import Kind, Valued

__all__ = ["CellRow", "PilotRow", "RehearsalRow", "Tried", "TwinRow"]


class PilotRow(Kind):
    """Thieves and twins of a lock that gives nothing away, to fix how many are needed."""

    lock: Annotated[str, "the lock's text"]
    attacker: Annotated[str, "who"]
    thief: Annotated[list[list[float]], "value of each thief, by model and draw"]
    twin: Annotated[list[list[float]], "value of each twin"]
    half_width: Annotated[float, "what the intervals of the lock's row shall reach"]
    comparisons: Annotated[int, "how many of them hold at once"]
    draws: Annotated[int, "how many thefts of a model that takes"]


class Tried(TypedDict):
    """One attack that was rehearsed."""

    attack: Annotated[str, "the attack"]
    setting: Annotated[str, "its settings; empty for its own"]
    values: Annotated[list[float], "value on inputs of judges, by model"]


class RehearsalRow(Valued):
    """What one attacker tried on other models under the same lock."""

    lock: Annotated[str, 'the lock\'s text; of the twin, which model the device runs, or "plain"']
    attacker: Annotated[str, "who"]
    twin: Annotated[bool, "whether it is the twin, who has no locked weights"]
    tried: Annotated[list[Tried], "all attacks that this attacker has a right to"]
    idle: Annotated[
        list[float], "value of who attacks nothing: by an own copy, the base, or a guess"
    ]
    chosen: Annotated[int, "which did best; -1 if none did better than nothing"]


class TwinRow(Valued):
    """The twin of one model's thief: the same rights, and no locked weights."""

    lock: Annotated[str, 'which model the device runs, by its lock; else "plain"']
    attacker: Annotated[str, "who"]
    seed: Annotated[int, "the seed of the model, from 0"]
    attack: Annotated[str, "the attack that the rehearsal chose"]
    setting: Annotated[str, "its settings; empty for its own"]
    values: Annotated[list[float], "test value of each draw"]


class CellRow(Valued):
    """One attacker of one locked model, by the attack that the rehearsal chose."""

    lock: Annotated[str, "the lock's text"]
    attacker: Annotated[str, "who"]
    seed: Annotated[int, "the seed of the model and the key, from 0"]
    attack: Annotated[str, "the attack; empty if none did any good in the rehearsal"]
    setting: Annotated[str, "its settings; empty for its own"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    idle: Annotated[float, "of who attacks nothing: by an own copy, the base, or a guess"]
    values: Annotated[list[float], "test value of each draw; `idle` where the attack gave up"]
    gave_up: Annotated[int, "of how many draws the attack found nothing"]
    images: Annotated[int, "inputs that the attacker has"]
    seconds: Annotated[float, "how long the first draw took, compilation included"]
