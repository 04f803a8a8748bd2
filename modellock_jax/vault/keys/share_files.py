"""Shares of a key as text files: one a share, to be printed and put into an envelope."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from modellock_jax import _temporary
from modellock_jax._atomic import creating, need_directory, sync_directory, write_all
from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault._files import check_private, open_to_read
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault.errors import Tampered, Unreadable, VaultError
from modellock_jax.vault.keys import identity, shares
from modellock_jax.vault.keys.shares import Share

__all__ = ["load", "save"]

_WORDS = 33  # of a share of 32 bytes
_FORMAT = "modellock-jax share of a key, version 2"
_COLUMNS = 3
_LONGEST = 8192  # bytes of a file
_FIELDS = {
    "Key": f"({identity.ID})",
    "Share": "([1-9][0-9]?) of ([1-9][0-9]?)",
    "Needed": "([1-9][0-9]?)",
    "Passphrase": "(yes|no)",
}


@clears_frames
def save(split: Sequence[Share], folder: str | os.PathLike[str]) -> list[Path]:
    """Write shares into a new folder, `share-1-of-5.txt` and so on.

    Args:
        split: What `shares.split` gave.
        folder: A path, new or empty.

    Returns:
        The paths.

    Raises:
        FileExistsError: If there is such a folder and it is not empty.
        FileNotFoundError: If the one around it is missing.
        OSError: If the disk refuses.

    **Guarantees.** Folder and files are for the owner's eyes alone (0700 and 0600). The folder is
    there with all shares, or not at all; a killed process may leave `.modellock-*.tmp` beside it.

    >>> import tempfile
    >>> from modellock_jax import vault
    >>> secret = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = save(shares.split(secret, 2, 3), f"{folder}/shares")
    ...     shares.join(map(load, paths[:2])) == secret
    True
    """
    target = Path(folder)
    need_directory(target)
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(
            f"{printable(folder)} exists and is no empty folder; choose another path"
        )
    names = [f"share-{share.index}-of-{share.count}.txt" for share in split]
    with _temporary.folder_in(target.parent) as temp:
        for name, share in zip(names, split):
            with creating(temp / name, 0o600) as file:
                # A view, because a traceback shows what the frames of a failed write hold.
                write_all(file, memoryview(_text(share).encode()), 0)
        _temporary.finish(temp, lambda: os.rename(temp, target))
    sync_directory(target.parent)
    return [target / name for name in names]


def _text(share: Share) -> str:
    cells = [f"{number:2} {word:12}" for number, word in enumerate(share._reveal().words(), 1)]
    added = " and the passphrase" if share.passphrase else ""
    rows = ["".join(cells[i : i + _COLUMNS]).rstrip() for i in range(0, _WORDS, _COLUMNS)]
    return "\n".join(
        [
            _FORMAT,
            "",
            f"A secret: any {share.threshold} of the {share.count} shares{added} are the key. Keep them",
            "apart, and this one where only its holder gets at it.",
            "To restore it: modellock-jax backup join SHARE... OUTPUT.key",
            "The words are SLIP-39; other tools for that give back the key's 32 bytes too.",
            "",
            f"Key: {share.key_id}",
            f"Share: {share.index} of {share.count}",
            f"Needed: {share.threshold}",
            f"Passphrase: {'yes' if share.passphrase else 'no'}",
            "Words:",
            *rows,
            "",
        ]
    )


@clears_frames
def load(path: str | os.PathLike[str]) -> Share:
    """Read a share file that `save` wrote, or that was typed from its print; `save` has an example.

    Numbers before the words may be omitted.

    Args:
        path: Of the file.

    Returns:
        The share.

    Raises:
        Unreadable: If it is no share file.
        PermissionError: If group or others have access (POSIX).
        Tampered: If a word or a line was changed; it says which one where that shows.
        ImportError: Without the package shamir-mnemonic.

    **Guarantees.** No error holds any of the words. Up to three mistyped words are always found.
    """
    file = open_to_read(path)
    try:
        data = os.read(file, _LONGEST + 1)
        if _texts.kind(data) in ("", "share of a key"):
            check_private(file, path)
        found = _parse(data, str(path))
    finally:
        os.close(file)
    if isinstance(found, VaultError):
        raise found
    return found


def _parse(data: bytes, name: str) -> Share | VaultError:
    """Return the share, or what is wrong: an exception from here would carry the text along."""
    slip39 = shares.package()
    if fault := _texts.encoding_fault(data):
        return Unreadable(f"{name} {fault}")
    if (kind := _texts.kind(data)) not in ("", "share of a key"):
        return Unreadable(f"{name} is {_texts.KINDS[kind]} and no share file; give share files")
    head, _, below = _texts.without_mark(data).decode("utf-8", "replace").partition("\nWords:")
    if len(data) > _LONGEST or head.strip().splitlines()[:1] != [_FORMAT]:
        return Unreadable(f"{name} is no share file of version 2, whose first line is `{_FORMAT}`")
    fields: dict[str, tuple[str, ...]] = {}
    for field, pattern in _FIELDS.items():
        lines = re.findall(rf"^{field}:\s*(.*?)\s*$", head, re.MULTILINE)
        found = re.fullmatch(pattern, lines[0]) if len(lines) == 1 else None
        if found is None:
            return Tampered(f"{name} has no proper line `{field}:`; compare it with the print")
        fields[field] = found.groups()
    words = [word for word in below.lower().split() if not word.rstrip(".").isdecimal()]
    unknown = [i for i, word in enumerate(words, 1) if word not in slip39.wordlist.WORD_INDEX_MAP]
    if unknown:
        places = ", ".join(map(str, unknown[:5]))
        return Tampered(f"{name}: no word of SLIP-39 stands at {places}; compare it with the print")
    if len(words) != _WORDS:
        return Tampered(
            f"{name} has {len(words)} words and needs {_WORDS}; compare it with the print"
        )
    try:
        share = slip39.Share.from_mnemonic(" ".join(words))
    except slip39.MnemonicError:
        return Tampered(
            f"{name}: the checksum does not hold, so a word was mistyped or moved; compare it with "
            "the print"
        )
    index, count = map(int, fields["Share"])
    if share.group_count != 1 or (index, int(fields["Needed"][0])) != (
        share.index + 1,
        share.member_threshold,
    ):
        return Tampered(
            f"{name}: the words are of share {share.index + 1}, of which {share.member_threshold} are "
            "needed, and the lines say otherwise; compare it with the print"
        )
    return Share(share, fields["Key"][0], count, fields["Passphrase"] == ("yes",), name)
