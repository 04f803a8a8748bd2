"""What one attacker has, what an attack ends with, and the record of an attack."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax

from modellock_jax.attacks._programs import user_program
from modellock_jax.core.lock import Key, Lock, Params
from modellock_jax.models import Model
from modellock_jax.tasks import Task, classify

__all__ = [
    "ANY",
    "RIGHTS",
    "Case",
    "Copy",
    "Entry",
    "Found",
    "NotGiven",
    "with_key",
    "with_weights",
]

RIGHTS: dict[str, str] = {
    "unlabelled": "inputs without labels",
    "labels": "labelled inputs",
    "device": "answers of an unlocked device",
    "chosen_input": "inputs of choice, scrambled by the user",
    "known_weights": "some plain weights",
    "public_base": "a public model that this one was made from",
    "other_copy": "a copy and a key of one's own, as a user",
    "more_copies": "two more users' copies",
    "reused_stream": "another checkpoint under the same key stream, locked and plain",
}
"""What an attacker may have beside the locked weights, the scheme and the architecture, by name."""

ANY = ("any lock",)


class NotGiven(AttributeError):
    """An attack asked for something that its attacker does not have."""


class Copy(NamedTuple):
    """Another user's copy: `locked`, its parameters, and the `key` that opens them."""

    locked: Params
    key: Key


class Case:
    """A locked model and what one attacker has: rights that were not given cannot be read.

    Args:
        lock: The scheme with its settings, as a `Lock`; public.
        model: The architecture, as `Model(init, forward, train)`.
        locked: The locked parameters.
        rng: Draws the attack's random numbers.
        example: One input of the model, `[1, ...]`; its values do not matter.
        task: What the model is for; classification by default.
        scheme: The lock's name in `locks.SCHEMES`; with none, only attacks on any lock apply.
        settings: The lock's settings by name.
        **rights: What else the attacker has, by the names of `RIGHTS`: `unlabelled`, inputs `[N, ...]`;
            `labels`, `(x [N, ...], y [N, ...])`; `device`, `f(x) -> outputs` of the user's model;
            `chosen_input`, `f(x) -> x` as the user's lock scrambles it; `known_weights` and
            `public_base`, parameters like `locked`; `other_copy`, a `Copy`; `more_copies`, two locked
            trees; `reused_stream`, `(locked, plain)`.

    Raises:
        TypeError: For a right that is not in `RIGHTS`.
        NotGiven: When a right is read that was not given.

    >>> import jax, modellock_jax as ml
    >>> from modellock_jax.models import mlp
    >>> model, x = mlp(2, (3,)), jax.numpy.ones((4, 2))
    >>> lock, params = ml.stream_lock(), model.init(jax.random.key(0), x)
    >>> locked, _ = lock.encrypt(lock.init(jax.random.key(1), params), params)
    >>> case = Case(lock, model, locked, jax.random.key(2), x[:1], unlabelled=x)
    >>> case.unlabelled.shape
    (4, 2)
    >>> case.only().unlabelled
    Traceback (most recent call last):
    ...
    modellock_jax.attacks.case.NotGiven: this attacker has no inputs without labels (`unlabelled`)
    """

    def __init__(
        self,
        lock: Lock,
        model: Model,
        locked: Params,
        rng: jax.Array,
        example: Any,
        *,
        task: Task = classify(),
        scheme: str = "",
        settings: Mapping[str, Any] | None = None,
        **rights: Any,
    ):
        if unknown := sorted(set(rights) - set(RIGHTS)):
            raise TypeError(f"Case: the rights are {', '.join(RIGHTS)}, not {', '.join(unknown)}")
        self.lock, self.model, self.locked, self.rng = lock, model, locked, rng
        self.example, self.task = example, task
        self.scheme, self.settings = scheme, dict(settings or {})
        self._rights = rights

    def __getattr__(self, name: str) -> Any:
        if name in RIGHTS:
            if name not in self._rights:
                raise NotGiven(f"this attacker has no {RIGHTS[name]} (`{name}`)")
            return self._rights[name]
        raise AttributeError(f"a Case has no {name!r}")

    @property
    def rights(self) -> tuple[str, ...]:
        """The names of what this attacker has beside the weights."""
        return tuple(name for name in RIGHTS if name in self._rights)

    def only(self, *names: str) -> "Case":
        """Return the same case for an attacker who has these rights and no others.

        Args:
            *names: Rights of `RIGHTS` that the case has.

        Returns:
            The case without its other rights.

        Raises:
            NotGiven: For one that this case lacks.
        """
        return self.replace(**{name: getattr(self, name) for name in names})

    def replace(self, model: Model | None = None, **rights: Any) -> "Case":
        """Give the same locked model another set of rights, and count through another `model`.

        Args:
            model: Another model to count through; None for the same.
            **rights: What the attacker has besides, by the names of `RIGHTS`; the present ones are
                dropped.

        Returns:
            A new case.
        """
        return Case(
            self.lock,
            model or self.model,
            self.locked,
            self.rng,
            self.example,
            task=self.task,
            scheme=self.scheme,
            settings=self.settings,
            **rights,
        )


class Found(NamedTuple):
    """What an attack ends with.

    `forward(x) -> outputs`, as the attacker's model now answers, None for an attack by inputs; `key`, if
    one was found; `adversarial`, inputs `[N, ...]` that shall mislead the user's model. What it
    took, which `attempt` counts: `inputs`, how many labelled or unlabelled ones the attacker had;
    `queries`, how many a device was asked; `passes`, how many the attacker's own model was given, a
    backward pass counting as two.
    """

    forward: Callable[[jax.Array], Any] | None
    key: Key | None = None
    adversarial: jax.Array | None = None
    inputs: int = 0
    queries: int = 0
    passes: int = 0


class Entry(NamedTuple):
    """The record of an attack.

    Attributes:
        name: In tables and on the command line.
        attack: `attack(case, **settings) -> Found`, or None where it gives up.
        against: Names of schemes, or `ANY`.
        needs: Names of `RIGHTS`, none for the locked weights alone.
        gives: What it ends with, a "key", "weights" that work, "inputs" that mislead, or the
            "control" that uses no weights.
    """

    name: str
    attack: Callable[..., Found | None]
    against: tuple[str, ...]
    needs: tuple[str, ...]
    gives: Literal["key", "weights", "inputs", "control"]

    def fits(self, scheme: str) -> bool:
        """Whether it is an attack on locks of that scheme.

        Args:
            scheme: The name of a lock's record, as "sign_mask".

        Returns:
            True if it attacks that scheme, or any.
        """
        return self.against == ANY or scheme in self.against

    @property
    def has(self) -> str:
        """What the attacker has, in words."""
        given = [RIGHTS[name] for name in self.needs]
        if self.gives == "control":
            return ", ".join([*given, "no weights"])
        return ", ".join(["weights", *given])


def with_key(case: Case, key: Key | None) -> Found | None:
    """Return the user's forward under a key that was found; None for none.

    Args:
        case: What the attacker has.
        key: The key found; None where the attack gave up.

    Returns:
        The key and the forward under it; None without a key.
    """
    if key is None:
        return None
    user = user_program(case.lock, case.model.forward)
    return Found(partial(user, key, case.locked), key)


def with_weights(case: Case, params: Params) -> Found:
    """Return the plain forward on parameters that were recovered.

    Args:
        case: What the attacker has.
        params: The parameters recovered, a tree like the locked one.

    Returns:
        The parameters and the plain forward on them.
    """
    return Found(partial(case.model.forward, params))
