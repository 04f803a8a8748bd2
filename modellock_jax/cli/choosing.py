"""Which key a command uses: the one that the file is for, out of all places where one may be."""

import contextlib
import getpass
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from modellock_jax._printing import printable
from modellock_jax.cli import paths, streams
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault.errors import Unreadable, VaultError, WrongKey
from modellock_jax.vault.keys.secret import Secret, load_key, parse
from modellock_jax.vault.sealed import recipients
from modellock_jax.vault.sealed._header_fields import Header
from modellock_jax.vault.sealed.recipients import Passphrase, Unlocker

__all__ = [
    "KEY",
    "Choice",
    "KeyFile",
    "NewPassphraseFile",
    "PassphraseFile",
    "ask_passphrase",
    "default_key_file",
    "load_secret",
]

KEY = "MODELLOCK_KEY"
_PASSPHRASE = "MODELLOCK_PASSPHRASE"
_LONGEST = 65_536  # bytes of a passphrase's file

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        parser=paths.parse_path,
        help="Your key file, or - for standard input. Otherwise the first that fits the file: "
        "$MODELLOCK_KEY (its content), the default key file, the keyring.",
    ),
]
NewPassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        parser=paths.parse_path,
        help="As --passphrase, which is in this file, or on standard input if that is -.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        parser=paths.parse_path,
        help="A file with the passphrase, or - for standard input. Otherwise: $MODELLOCK_PASSPHRASE, "
        "or the terminal asks.",
    ),
]


class _Place(NamedTuple):
    """Where a key may be: `name` for people; the secret, or why there is none."""

    name: str
    secret: Secret | None
    fault: str = ""
    broken: bool = False

    @property
    def told(self) -> str:
        """What was tried there."""
        return f"{self.name} ({f'key {self.secret.id}' if self.secret else self.fault})"


class Choice:
    """A choice among all places, and what it was made from, for an error to name."""

    def __init__(self, named: Path | None, passphrase: Path | None = None) -> None:
        if named is not None and passphrase is not None:
            raise ValueError("give --key or --passphrase-file, not both")
        self._named, self._passphrase, self.tried = named, passphrase, ""

    def first(self) -> Secret:
        """Return the key that is to be used where no file tells. Raises `ValueError`, `Unreadable`."""
        return self._of(None)

    def of(self, ids: Collection[str]) -> Secret:
        """Return the key with one of these ids; if no place has it, the error names them all.

        Raises `WrongKey`, `ValueError`, `Unreadable`; `--key` alone is not judged here.
        """
        return self._of(ids)

    def unlocker(self, made: Header) -> Unlocker:
        """Return what opens a sealed file: the key of a recipient, or the passphrase if it has one."""
        by_words = any(s["type"] == recipients.PASSPHRASE for s in made.stanzas)
        if self._passphrase is not None:
            self.tried = f"the passphrase in {printable(self._passphrase)}"
            return _passphrase_in(self._passphrase)
        names = [recipients.name_of(stanza) for stanza in made.stanzas]
        try:
            return self._of(names)
        except (ValueError, VaultError):
            if not by_words or self._named is not None:
                raise
        found = ask_passphrase(confirm=False, tried=self.tried)
        self.tried += ", and the passphrase"
        return found

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Have a `WrongKey` from within say what was tried."""
        try:
            yield
        except WrongKey as error:
            raise WrongKey(f"{error}; tried {self.tried}") from None

    def _of(self, ids: Collection[str] | None) -> Secret:
        if self._named is not None:
            secret = load_secret(self._named)
            self.tried = f"{printable(self._named)} (key {secret.id})"
            return secret
        places: list[_Place] = []
        for place in _places():  # the next is not looked at if this one will do
            places.append(place)
            self.tried = ", ".join(one.told for one in places)
            if place.secret and (ids is None or {*place.secret.ids.values()} & {*ids}):
                _mention(places)
                return place.secret
        if any(place.secret for place in places):
            raise WrongKey(f"not for this key: it is for {_some(ids or ())}; tried {self.tried}")
        if any(place.broken for place in places):
            raise Unreadable(f"no key: {self.tried}; mend it, or give --key FILE")
        raise ValueError(f"no key: give --key FILE; tried {self.tried}")


def _mention(places: list[_Place]) -> None:
    """Go on where a place is broken, which does not stop another, but tell its owner."""
    for place in places:
        if place.broken:
            streams.say(f"note: passed over {place.told}")


def _some(ids: Collection[str]) -> str:
    shown = list(ids)[:5]
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(map(printable, shown)) + more


def _places() -> Iterator[_Place]:
    yield _place(f"${KEY}", _from_environment, "not set")
    default = default_key_file()
    if default is None:
        yield _Place("the default key file", None, "there is no home folder")
    else:
        name = f"the default key file {printable(default)}"
        yield _place(
            name, lambda: load_secret(default) if os.path.lexists(default) else None, "not there"
        )
    yield _place("the keyring", _from_keyring, "has none")


def _place(name: str, look: Callable[[], Secret | None], absent: str) -> _Place:
    try:
        found = look()
    except Exception as error:  # a keyring raises whatever it likes
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        return _Place(name, None, kind + printable(error), True)
    return _Place(name, found, "" if found else absent)


@clears_frames
def _from_environment() -> Secret | None:
    text = os.environ.get(KEY)
    return parse(os.fsencode(text), f"${KEY}") if text else None


@clears_frames
def _from_keyring() -> Secret | None:
    try:
        import keyring
    except ImportError:
        return None
    from keyring.errors import NoKeyringError

    try:
        text = keyring.get_password("modellock-jax", "default")
    except NoKeyringError:
        return None
    return parse(text.encode(), "the keyring's modellock-jax/default") if text else None


def default_key_file() -> Path | None:
    """Where a key file is looked for if none is named; None without a home folder."""
    # A relative path there is to be ignored, says the XDG Base Directory Specification.
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not home.is_absolute():
        try:
            home = Path.home() / ".config"
        except RuntimeError:
            return None
        if not home.is_absolute():
            return None
    return home / "modellock-jax" / "default.key"


@clears_frames
def load_secret(path: Path) -> Secret:
    """Return the secret in a key file, in a pipe, or on standard input; raises as `load_key`."""
    if not paths.is_stream(path):
        return load_key(path)
    name = "standard input" if path == paths.STANDARD else printable(path)
    return parse(paths.content(path, 8192), name)


@clears_frames
def _passphrase_in(path: Path) -> Passphrase:
    """Return the passphrase in a file, without the line end behind it. Raises `ValueError`."""
    data = paths.content(path, _LONGEST + 1)
    if len(data) > _LONGEST:
        raise ValueError(f"{printable(path)} is too long for a passphrase")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{printable(path)} is not UTF-8; write the passphrase so") from None
    return Passphrase(text.removesuffix("\n").removesuffix("\r"))


@clears_frames
def ask_passphrase(confirm: bool, file: Path | None = None, tried: str = "") -> Passphrase:
    """Return a passphrase from a file, the environment, or the terminal, where nobody sees it.

    The terminal is asked even if standard input is what is opened. Raises `ValueError` without any.
    """
    if file is not None:
        return _passphrase_in(file)
    if text := os.environ.get(_PASSPHRASE):
        return Passphrase(text)
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        after = f"; tried {tried}" if tried else ""
        raise ValueError(
            f"no passphrase: set ${_PASSPHRASE}, give --passphrase-file, or run this in a "
            f"terminal{after}"
        ) from None
    text = getpass.getpass("Passphrase: ")
    if confirm and getpass.getpass("Again: ") != text:
        raise ValueError("the two passphrases differ; try again")
    return Passphrase(text)
