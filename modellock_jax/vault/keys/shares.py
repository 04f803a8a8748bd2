"""Backup of a key in shares: any k of n restore it, fewer do not (SLIP-39).

Threat model. Whoever has k shares, and the passphrase if there is one, has the key; whoever has
fewer can check a guess at all its 256 bits, as its id lets everybody, and no more. So each share
is a secret, for another person or place. The arithmetic is that of the package shamir-mnemonic, the
standard's reference implementation; its authors warn that it takes no care of side channels: split
and join on a machine that nobody else uses.
"""

import importlib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple, NoReturn

from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault.errors import Tampered, VaultError, WrongKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed.recipients import Passphrase

__all__ = ["Drill", "Share", "drill", "join", "split"]

_MOST = 16  # shares of one key, by SLIP-39
_MOST_TRIED = 1000  # combinations in one drill, or a few more
_STRETCH = 6  # a passphrase goes through 10,000 * 2**6 rounds of PBKDF2


class Share:
    """One share of a key, from `split` or `share_files.load`; no repr, pickle or copy shows its words.

    Open are `name`, how errors call it; `key_id`, of the key it is a share of; `index`, from 1;
    `threshold` and `count`: so many of how many restore the key; `passphrase`: whether one is needed.
    """

    __slots__ = ("_reveal", "count", "index", "key_id", "name", "passphrase", "threshold")

    def __init__(
        self, words: Any, key_id: str, count: int, passphrase: bool, name: str = ""
    ) -> None:
        # A share of shamir-mnemonic, whose repr shows everything.
        self._reveal: Callable[[], Any] = lambda: words
        self.key_id, self.count, self.passphrase = key_id, count, passphrase
        self.index, self.threshold = words.index + 1, words.member_threshold
        self.name = name or f"share {self.index} of {count}"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Share is neither pickled nor copied; write it with share_files.save")

    def __repr__(self) -> str:
        return f"Share({self.index} of {self.count}, key={self.key_id!r})"


class Drill(NamedTuple):
    """What a drill of the key `key_id` tried: `tried` of the `possible` sets of `threshold` shares."""

    key_id: str
    threshold: int
    tried: int
    possible: int


@clears_frames
def split(
    secret: Secret, threshold: int, count: int, passphrase: Passphrase | None = None
) -> list[Share]:
    """Split a key into shares, of which any `threshold` restore it.

    Args:
        secret: The key.
        threshold: How many restore it, at least 2.
        count: How many there are, at most 16.
        passphrase: Needed beside them, printable ASCII; None for none.

    Returns:
        `count` shares.

    Raises:
        ValueError: For other numbers or another passphrase.
        ImportError: Without the package shamir-mnemonic.

    **Guarantees.** Fewer than `threshold` shares tell nothing of the key, but for a checksum that a
    guess at the whole key can be tested against; its id is another, and is in the open with them, as
    both numbers are. `threshold` shares and the passphrase, if there is one, are the key. A
    passphrase is stretched by PBKDF2 alone: it delays whoever has the shares. Any tool for SLIP-39
    gives back the key's 32 bytes.

    Source: Shamir (1979), in the form of SLIP-39 (Rusnak, Kozlik, Vejpustek, Susanka, Palatinus &
    Hoenicke 2017).

    >>> from modellock_jax import vault
    >>> shares = split(secret := vault.generate_key(), 2, 3)
    >>> join(shares[1:]) == secret
    True
    """
    slip39 = package()
    if not 2 <= threshold <= count <= _MOST:
        raise ValueError(
            f"{threshold} of {count} shares cannot be: choose 2 <= threshold <= shares <= {_MOST}"
        )
    if passphrase and not re.fullmatch("[ -~]+", passphrase._reveal().decode()):
        raise ValueError("the passphrase of shares must be printable ASCII; choose another")
    hidden = slip39.EncryptedMasterSecret.from_master_secret(
        secret._reveal(),
        passphrase._reveal() if passphrase else b"",
        identifier=int.from_bytes(os.urandom(2), "big") >> 1,  # of this split, 15 bits
        extendable=True,
        iteration_exponent=_STRETCH if passphrase else 0,
    )
    (group,) = slip39.split_ems(1, [(threshold, count)], hidden)
    return [Share(words, secret.id, count, passphrase is not None) for words in group]


@clears_frames
def join(shares: Iterable[Share], passphrase: Passphrase | None = None) -> Secret:
    """Return the key that shares restore; `split` has an example.

    Args:
        shares: As many as are needed, or more.
        passphrase: That of the shares; None for none.

    Returns:
        The key.

    Raises:
        ValueError: For too few shares, shares of two keys or two splits, a share twice, a
            passphrase too much or too little.
        WrongKey: For a wrong passphrase.
        Tampered: If a share was changed.

    **Guarantees.** The key whose id the shares name, or an error. Every share given takes part.
    """
    shares = _belonging(shares)
    return _restore(_each_once(shares), passphrase)


@clears_frames
def drill(
    shares: Iterable[Share], key: Secret | str, passphrase: Passphrase | None = None
) -> Drill:
    """Prove that shares restore a key.

    Every combination of as few as are needed is tried, if there are 1000 or fewer; else 1000 or so,
    with each share among them.

    Args:
        shares: Shares of one key.
        key: The key, or its id.
        passphrase: That of the shares; None for none.

    Returns:
        What was tried.

    Raises:
        WrongKey: If they are shares of another key, or the passphrase is wrong.
        ValueError: As `join`.
        Tampered: As `join`.

    **Guarantees.** The key is given to nobody and written nowhere.
    """
    shares = _belonging(shares)
    k = shares[0].threshold
    possible = math.comb(len(shares), k)
    some = [*combinations(shares, k)][:: -(-possible // _MOST_TRIED)]
    picks = [*dict.fromkeys([*some, *_each_once(shares)])]
    found = _restore(picks, passphrase)
    if (found.id if isinstance(key, str) else found) != key:
        wanted = key if isinstance(key, str) else key.id
        raise WrongKey(f"these are shares of key {found.id}, not of {wanted}")
    return Drill(found.id, k, len(picks), possible)


def package() -> Any:
    """Return the package shamir-mnemonic. Raises `ImportError` with what to do."""
    try:
        return importlib.import_module("shamir_mnemonic")
    except ImportError:
        raise ImportError(
            "shares need the package shamir-mnemonic: from a clone of this project, with the extra "
            '`backup`, run pip install -e ".[backup]"'
        ) from None


def _each_once(shares: tuple[Share, ...]) -> list[tuple[Share, ...]]:
    """As many as are needed, again and again, until each had its turn."""
    k = shares[0].threshold
    return [shares[i : i + k] for i in range(len(shares) - k + 1)]


def _belonging(given: Iterable[Share]) -> tuple[Share, ...]:
    """Return the shares, if they are enough of one key and one split. Raises `ValueError`."""
    shares = tuple(given)
    if not shares:
        raise ValueError("no shares were given")
    first = shares[0]
    seen: dict[int, Share] = {}
    for share in shares:
        if share.key_id != first.key_id:
            raise ValueError(
                f"shares of two keys: {first.name} is of {first.key_id}, {share.name} of {share.key_id}"
            )
        if _split_of(share) != _split_of(first):
            raise ValueError(
                f"{first.name} and {share.name} were not split together, though of one key, or a line "
                "of one was changed; give shares of one time"
            )
        if share.index in seen:
            other = seen[share.index].name
            raise ValueError(f"{other} and {share.name} are both share {share.index}; give one")
        seen[share.index] = share
    if len(shares) < first.threshold:
        raise ValueError(
            f"{len(shares)} of the shares of key {first.key_id}, and {first.threshold} are needed"
        )
    return shares


def _split_of(share: Share) -> tuple[Any, ...]:
    return (*share._reveal().group_parameters(), share.count, share.passphrase)


def _restore(picks: Sequence[Sequence[Share]], passphrase: Passphrase | None) -> Secret:
    first = picks[0][0]
    if first.passphrase and passphrase is None:
        raise ValueError(f"the shares of key {first.key_id} were split with a passphrase; give it")
    if passphrase is not None and not first.passphrase:
        raise ValueError(f"the shares of key {first.key_id} have no passphrase; omit it")
    found = _restored(picks, passphrase._reveal() if passphrase else b"")
    if isinstance(found, VaultError):
        raise found
    return found


def _restored(picks: Sequence[Sequence[Share]], passphrase: bytes) -> Secret | VaultError:
    """Return the key, or what is wrong: an exception from here would carry the shares along."""
    slip39 = package()
    hidden: Any = None
    for pick in picks:
        names = ", ".join(share.name for share in pick)
        group = slip39.shamir.ShareGroup()
        for share in pick:
            group.add(share._reveal())
        try:
            found = slip39.recover_ems({0: group})
        except slip39.MnemonicError:
            found = None
        if found is None or (hidden is not None and found != hidden):
            return Tampered(
                f"{names} do not fit together: one of them was changed, or is of another split"
            )
        hidden = found
    first = picks[0][0]
    secret = Secret(hidden.decrypt(passphrase))
    if secret.id == first.key_id:
        return secret
    if first.passphrase:
        return WrongKey(f"the passphrase is not that of the shares of key {first.key_id}")
    return Tampered(
        f"the shares restore a key that is not {first.key_id}: the line `Key` of the share files was "
        "changed"
    )
