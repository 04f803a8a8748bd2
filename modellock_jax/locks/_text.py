"""Locks as text: `deep_lock(key_bits=256)+stream_lock`, in studies, in files and on the command line."""

import ast
import inspect
import math
import typing
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from modellock_jax.locks._scheme import Scheme, Shape
from modellock_jax.locks._table import SCHEMES

if TYPE_CHECKING:
    import jax

    from modellock_jax.core.lock import Key, Lock, Params

_LONGEST = 1000  # characters


class Link(NamedTuple):
    """One lock of a text: the record of its `scheme`, and the `settings` that were given."""

    scheme: Scheme
    settings: dict[str, Any]

    def __str__(self) -> str:
        settings = ", ".join(f"{key}={_literal(value)}" for key, value in self.settings.items())
        return f"{self.scheme.name}({settings})"

    @property
    def lock(self) -> "Lock":
        """The lock.

        Raises:
            ValueError: For settings with which there is none.
        """
        return self._build(self.settings)

    def complete(self, shape: Shape | None = None) -> "Link":
        """Write out every setting: what the data decides, if its `shape` is given, and defaults.

        Args:
            shape: That of one input; None if it is not known.

        Returns:
            The link with all settings.

        Raises:
            ValueError: If a setting is missing or wrong, or the lock cannot take such data.
        """
        try:
            derived = {} if shape is None else self.scheme.from_data(shape)
        except ValueError as error:
            raise ValueError(f"the lock {self} does not work: {error}") from None
        given = {**derived, **self.settings}
        self._build(given)
        bound = inspect.signature(self.scheme.factory).bind(**given)
        bound.apply_defaults()
        # What no text can give, such as a function, has None for a default.
        complete = {k: v for k, v in bound.arguments.items() if k in given or v is not None}
        return self._replace(settings=complete)

    def _build(self, settings: dict[str, Any]) -> "Lock":
        try:
            inspect.signature(self.scheme.factory).bind(**settings)
        except TypeError as error:
            raise ValueError(f"the lock {self} does not work: {error}") from None
        try:
            _check_types(self.scheme, settings)
            return self.scheme.factory(**settings)
        except TypeError as error:
            raise ValueError(f"the lock {self} has a setting of the wrong type: {error}") from None
        except ValueError as error:
            raise ValueError(f"the lock {self} does not work: {error}") from None


class LockText(NamedTuple):
    """What a text says: a lock, or a chain of several, its `links`; `parse` reads its `str` alike."""

    links: tuple[Link, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.links))

    @property
    def schemes(self) -> list[Scheme]:
        """The records of the locks, in order."""
        return [link.scheme for link in self.links]

    @property
    def name(self) -> str:
        """The names of the locks, joined by `+`."""
        return "+".join(scheme.name for scheme in self.schemes)

    @property
    def lock(self) -> "Lock":
        """The lock, of several their chain.

        Raises:
            ValueError: For settings without one.
        """
        from modellock_jax.core.compose import chain

        locks = [link.lock for link in self.links]
        return chain(*locks) if len(locks) > 1 else locks[0]

    def complete(self, shape: Shape | None = None) -> "LockText":
        """Write out every setting, so that the text outlives a change of defaults.

        Args:
            shape: The shape of one input, `(H, W, C)` of images, which decides some settings of some
                locks. Without it those must be given.

        Returns:
            A text with all settings.

        Raises:
            ValueError: If a setting is missing or wrong, or the lock cannot take such data.

        >>> str(parse("deep_lock(key_bits=256)+stream_lock").complete())
        "deep_lock(key_bits=256, restart='never', packing='byte')+stream_lock()"
        >>> str(parse("patch_shuffle").complete((28, 28, 1)))
        'patch_shuffle(patch=7, channels=1)'
        """
        return LockText(tuple(link.complete(shape) for link in self.links))

    def near(self, rng: "jax.Array", key: "Key") -> "Key":
        """Find the nearest wrong key: one bit or swap off, of a chain in one link at random.

        Args:
            rng: A JAX PRNG key, which draws the place.
            key: The right key.

        Returns:
            A key of the same type.
        """
        import jax
        import jax.numpy as jnp

        if len(self.links) == 1:
            return self.links[0].scheme.near(rng, key)
        which, *rngs = jax.random.split(rng, 1 + len(self.links))
        chosen = jax.random.randint(which, (), 0, len(self.links))
        return tuple(
            jax.tree.map(lambda a, b, i=i: jnp.where(chosen == i, a, b), link.scheme.near(r, k), k)
            for i, (link, r, k) in enumerate(zip(self.links, rngs, key))
        )

    def guess(self, rng: "jax.Array", locked: "Params") -> "Key":
        """Draw a key that an attacker who knows the lock would try, of a chain one for each link.

        Args:
            rng: A JAX PRNG key.
            locked: The locked parameters, a tree of arrays.

        Returns:
            A key of the lock.
        """
        import jax

        if len(self.links) == 1:
            return self.links[0].scheme.guess(self.lock, rng, locked)
        rngs = jax.random.split(rng, len(self.links))
        return tuple(link.scheme.guess(link.lock, r, locked) for link, r in zip(self.links, rngs))

    def bits(self, params: "Params", sites: Any) -> float:
        """Count the bits of the key space on one model, of a chain those of all links together.

        Args:
            params: The model's parameters, or their shapes and dtypes, a tree.
            sites: From the names of pre-activations to their shapes `[B, ..., C]`.

        Returns:
            log2 of the number of keys.
        """
        return sum(link.scheme.bits(params, sites, **link.settings) for link in self.links)


def parse(text: str) -> LockText:
    """Read a lock's text: a name, a name with settings, or several of those with `+` between them.

    Settings are literals, given by name. `A+B` is a chain: A first, and its result locked by B.

    Args:
        text: At most 1,000 characters.

    Returns:
        The links of the chain, with the settings that the text gives.

    Raises:
        ValueError: If the text cannot be read, or names a lock or a setting that there is not. Whether
            the settings work is seen when the lock is made, or by `complete`.

    >>> parse("sign_flip(bits=8) + stream_lock").name
    'sign_flip+stream_lock'
    >>> parse("rot13")
    Traceback (most recent call last):
    ValueError: there is no lock 'rot13'; the locks are pixel_shuffle, ...
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # about escapes such as `\d`
            tree = ast.parse(text.strip(), mode="eval")
        calls = [_call(node) for node in _nodes(tree.body)]
    # A text of a stranger's may be nested deeper than Python reads.
    except (SyntaxError, ValueError, TypeError, Warning, RecursionError, MemoryError):
        raise ValueError(
            f"the lock {text[:80]!r} cannot be read; write a name, or a name with settings such as "
            '"deep_lock(key_bits=256)", and join several by "+"'
        ) from None
    return LockText(tuple(_link(name, settings) for name, settings in calls))


def _nodes(node: ast.expr) -> Iterator[ast.expr]:
    links: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        links.append(node.right)
        node = node.left
    return iter([node, *reversed(links)])


def _call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError
    settings: dict[str, Any] = {}
    for keyword in node.keywords:
        value = ast.literal_eval(keyword.value)
        if keyword.arg is None or keyword.arg in settings or not _is_plain(value):
            raise ValueError
        settings[keyword.arg] = value
    return node.func.id, settings


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _literal(value: Any) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # `inf` is no literal
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def _link(name: str, settings: dict[str, Any]) -> Link:
    if name not in SCHEMES:
        raise ValueError(f"there is no lock {name!r}; the locks are {', '.join(SCHEMES)}")
    scheme = SCHEMES[name]
    known = inspect.signature(scheme.factory).parameters
    for setting in settings:
        if setting not in known:
            raise ValueError(
                f"{name} has no setting {setting!r}; its settings are {', '.join(known) or 'none'}"
            )
    return Link(scheme, settings)


def _check_types(scheme: Scheme, settings: dict[str, Any]) -> None:
    try:
        hints = typing.get_type_hints(scheme.factory)
    except NameError:  # written for a type checker alone
        return
    numbers = {int: (int,), float: (int, float)}
    for name, value in settings.items():
        hint = hints.get(name)
        if hint in numbers and type(value) not in numbers[hint]:
            raise TypeError(f"{name} is {value!r}, and it must be of type {hint.__name__}")
