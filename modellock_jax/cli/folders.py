"""The commands that seal and open, on folders: sets of files under one signature."""

from pathlib import Path
from typing import Any

from modellock_jax.cli.choosing import Choice
from modellock_jax.cli.heads import describe_head
from modellock_jax.cli.inputs import progress, say_memory, show, tell
from modellock_jax.vault import _folders
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.issuing import _naming
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.locked import _file_schemes
from modellock_jax.vault.locked.sets import (
    FORMAT,
    is_locked_set,
    lock_set,
    read_locked_set,
    unlock_set,
)
from modellock_jax.vault.sealed import rewrite, sets
from modellock_jax.vault.sealed.members import FORMAT as SET_FORMAT
from modellock_jax.vault.sealed.members import LOCKED, MANIFEST, Member, OpenedSet
from modellock_jax.vault.sealed.opened import BYTES

__all__ = [
    "inspect",
    "largest",
    "lock",
    "open_",
    "opened",
    "rewritten",
    "rotate",
    "seal",
    "size_of",
    "unlock",
]

_SHOWN = 20  # paths that a line names


def seal(
    source: Path, output: Path, whom: list[Any], dry_run: bool, as_json: bool, **about: Any
) -> None:
    """`seal FOLDER FOLDER`."""
    _folders.check_new_folder(output)
    found = sets.check_folder(source)
    members: list[Member] = []
    if not dry_run:
        size = size_of(source)
        with progress("sealing", size) as done:
            members = sets.seal_set(source, output, whom, done=done, **about)
    word = "would be sealed" if dry_run else "sealed"
    lines = [
        f"{source} {word} into {output} for {len(whom)} recipients: {len(found.files)} files as one "
        "set, whose paths and sizes lie open"
    ]
    whole = [one.path for one in members if one.kind == BYTES]
    for paths, what in (
        (whole, "sealed as bytes, so without single arrays"),
        (found.hidden, "hidden, and sealed too"),
        (found.empty, "empty folders, which come back"),
    ):
        lines += [f"{what}: {_listed(paths)}"] if paths else []
    tell(
        as_json,
        lines,
        output=str(output),
        files=list(found.files),
        as_bytes=whole,
        hidden=found.hidden,
        empty=list(found.empty),
        name=about["name"],
        serial=about["serial"],
        recipients=len(whom),
        written=not dry_run,
    )


def open_(
    source: Path,
    output: Path | None,
    choice: Choice,
    signed_by: list[PublicKey],
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """`open FOLDER FOLDER`, and without an output `verify FOLDER`."""
    if output is not None:
        _folders.check_new_folder(output)
    with opened(source, choice, signed_by=signed_by, **options) as found:
        if output is None or dry_run:
            with progress("checking", found.size) as done:
                found.check(done)
        else:
            with progress("opening", found.size) as done:
                found.export(output, done)
    made = found.header
    words = _naming.describe(made.name, made.serial)
    by = ", ".join(public.id for public in signed_by) if signed_by else ""
    word = "whole" if output is None else "can be opened" if dry_run else f"opened into {output}"
    tell(
        as_json,
        f"{source} {word}: {words}, {len(found.paths)} files, {found.size} bytes; "
        + (f"signed by {by}" if by else "no signature asked for, so its recipients vouch for it"),
        output=None if output is None else str(output),
        files=found.paths,
        name=made.name,
        serial=made.serial,
        bytes=found.size,
        signed_by=[public.id for public in signed_by],
        written=output is not None and not dry_run,
    )


def rotate(
    source: Path,
    output: Path,
    whom: list[Any],
    choice: Choice,
    signed_by: list[PublicKey],
    options: dict[str, Any],
    dry_run: bool,
    as_json: bool,
    **about: Any,
) -> None:
    """`rotate FOLDER FOLDER`."""
    _folders.check_new_folder(output)
    before = {one["id"] for one in rewrite.read_header(sets.manifest_of(source)).signatures}
    again = [s for s in about["signers"] if s.id in before]
    required = [*signed_by, *map(identity.public_key, again)]
    with opened(source, choice, signed_by=required, **options) as found:
        if not dry_run:
            with progress("rotating", found.size) as done:
                sets.rotate_set(found, output, whom, done=done, **about)
    word = "would be" if dry_run else "is"
    tell(
        as_json,
        f"{output} {word} a set of {len(found.paths)} files under fresh keys for {len(whom)} "
        f"recipients; destroy copies of {source}",
        output=str(output),
        files=found.paths,
        recipients=len(whom),
        written=not dry_run,
    )


def opened(source: Path, choice: Choice, **options: Any) -> OpenedSet:
    """Open a set with the key that its manifest asks for."""
    with choice.explained():
        return sets.open_set(source, choice.unlocker, **options)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum((path / one).stat().st_size for one in _folders.walk(path).files)


def largest(folder: Path) -> int:
    """How many bytes the largest file of a folder has."""
    files = sets.check_folder(folder).files
    return max(((folder / path).stat().st_size for path in files), default=0)


def rewritten(path: Path) -> Path:
    """Return the file whose head changes when recipients do: of a folder, the manifest."""
    if not path.is_dir():
        return path
    if not sets.is_set(path):
        raise Unreadable(f"{path} has no {MANIFEST}; name a folder that was sealed")
    return sets.manifest_of(path)


def _listed(paths: Any) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def inspect(source: Path, as_json: bool) -> None:
    """`inspect FOLDER`."""
    if is_locked_set(source):
        found = read_locked_set(source)
        about = f"{source}: {FORMAT}, {len(found.members)} files, {found.scheme}"
        show(
            as_json,
            [about, f"key_id: {found.key_id}", "What it says is checked only by unlock."],
            kind=FORMAT,
            files=[one.path for one in found.members],
            scheme=found.scheme,
            key_id=found.key_id,
        )
        return
    made, about_set = rewrite.read_header(rewritten(source)), sets.inspect_set(source)
    lines, fields = describe_head(made, SET_FORMAT, about_set["bytes"])
    show(as_json, [f"{source}: {lines[0]}", *lines[1:]], **fields | about_set)


def lock(source: Path, output: Path, secret: Secret, scheme: str, as_json: bool) -> None:
    """`lock FOLDER FOLDER`."""
    _folders.check_new_folder(output)
    size = size_of(source)
    say_memory(scheme, largest(source))
    with progress("locking", size) as done:
        made = lock_set(source, output, secret, scheme, done=done)
    copied = [one.path for one in made.members if not one.locked]
    lines = [f"{source} locked into {output} with key {made.key_id}: {len(made.members)} files"]
    lines += [f"copied as they are: {_listed(copied)}"] if copied else []
    lines.append(_file_schemes.about(made.scheme))
    tell(
        as_json,
        lines,
        output=str(output),
        scheme=made.scheme,
        key=made.key_id,
        files=[one.path for one in made.members],
        copied=copied,
    )


def unlock(source: Path, output: Path, choice: Choice, revoked: list[Path], as_json: bool) -> None:
    """`unlock FOLDER FOLDER`."""
    _folders.check_new_folder(output)
    if not is_locked_set(source):
        raise Unreadable(f"{source} has no {LOCKED}; name a folder that was locked, or use open")
    found = read_locked_set(source)
    say_memory(found.scheme, max((one.size for one in found.members if one.locked), default=0))
    with choice.explained(), progress("unlocking", sum(one.size for one in found.members)) as done:
        secret = choice.of([found.key_id])
        unlock_set(source, output, secret, revoked=revoked, done=done)
    tell(
        as_json,
        f"{source} unlocked into {output}, {len(found.members)} files",
        output=str(output),
        files=[one.path for one in found.members],
    )
