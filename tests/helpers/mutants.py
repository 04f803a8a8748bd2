"""Mutated sealed files, by the kind of change: `FAMILIES` says how many of each make 10,000.

Each function takes a `Case` and a generator, and gives the bytes of a file.
"""

from helpers.mutant_heads import claim, edit_header, edit_metadata, edit_stanzas
from helpers.sealed import ALICE, BOB, OWNER, apart, public, some, together
from modellock_jax.vault.errors import VaultError
from modellock_jax.vault.keys import identity
from modellock_jax.vault.sealed import _chunks, _header, envelope

CHUNK = 64  # so that small arrays have several chunks


class Case:
    """A sealed file taken apart, beside another one for the same people, of the same sizes."""

    def __init__(self, folder):
        publics = [public(ALICE), identity.public_key(BOB, classic=True)]
        self.path = folder / "m.sealed"
        envelope.seal(some(1), folder / "other", publics, signers=[OWNER])
        called = {"name": 'résnet \\ "7"', "serial": 7}
        envelope.seal(some(0), self.path, publics, signers=[OWNER], **called)
        self.data, self.other = self.path.read_bytes(), (folder / "other").read_bytes()
        (self.made, self.body), (self.made2, self.body2) = apart(self.data), apart(self.other)
        size = _chunks.plain_size(len(self.body))
        self.parts = [_chunks.chunk(i, size) for i in range(_chunks.count(size))]
        self.used = len(self.data[: self.made.room].rstrip(b" "))
        self.file_key = _header.file_key_of(self.made, ALICE)

    def try_to_open(self, data: bytes) -> int:
        """The code of the fault that opening such a file ends in, 0 if it opens."""
        with open(self.path, "r+b", 0) as file:  # to truncate it first takes a disk long
            file.write(data)
            file.truncate()
        try:
            envelope.load(self.path, ALICE)
        except VaultError as error:
            code, told = error.code, str(error)
        else:
            return 0
        assert 10 < len(told) < 400
        return code


def place(case, rng) -> int:
    """A place in the head's text, its padding or the body, each as likely."""
    low, high = [(0, case.used), (case.used, case.made.room), (case.made.room, len(case.data))][
        rng.integers(3)
    ]
    return int(rng.integers(low, high))


# Bytes


def flip(case, rng):
    data = bytearray(case.data)
    for _ in range(rng.integers(1, 4)):
        data[place(case, rng)] ^= 1 << rng.integers(8)
    return bytes(data)


def cut(case, rng):
    at = place(case, rng)
    return case.data[at:] if rng.integers(8) == 0 else case.data[:at]


def extend(case, rng):
    at = [len(case.data), place(case, rng)][rng.integers(2)]
    more = [rng.bytes(rng.integers(1, 100)), b" " * 8, bytes(16), case.body][rng.integers(4)]
    return case.data[:at] + more + case.data[at:]


def overwrite(case, rng):
    at, start, length = place(case, rng), place(case, rng), int(rng.integers(1, 200))
    new = [
        rng.bytes(length),
        bytes(length),
        case.data[start : start + length],
        case.other[at:][:length],
    ]
    new = new[rng.integers(4)]
    return case.data[:at] + new + case.data[at + len(new) :]


def length_lies(case, rng):
    right = case.made.room - 8
    lies = [
        0,
        1,
        right - 8,
        right - 1,
        right + 1,
        right + 8,
        len(case.data),
        2**31,
        2**60,
        2**64 - 1,
    ]
    lies += [case.used - 8, int(rng.integers(2**20)), 99_999_992, 99_999_993]
    return lies[rng.integers(len(lies))].to_bytes(8, "little") + case.data[8:]


# Chunks


def shuffle_chunks(case, rng):
    """Swapped, repeated, dropped or another file's, where the size then says so and where not."""
    bodies = [case.body[p.place : p.place + p.length + _chunks.TAG] for p in case.parts]
    others = [case.body2[p.place : p.place + p.length + _chunks.TAG] for p in case.parts]
    i, j = rng.choice(len(bodies), 2, replace=False)
    full = [i for i, p in enumerate(case.parts) if p.length == CHUNK]
    what = rng.integers(6)
    if what == 0:
        i, j = rng.choice(full, 2, replace=False)
        bodies[i], bodies[j] = bodies[j], bodies[i]
    elif what == 1:
        bodies[i], bodies[j] = bodies[j], bodies[i]
    elif what == 2:
        bodies[i] = bodies[j] if rng.integers(2) else bodies[i] * 2
    elif what == 3:
        del bodies[i]
    elif what == 4:
        bodies[i] = others[[i, j][rng.integers(2)]]
    else:
        bodies = bodies[:i] + others[i:] if rng.integers(2) else others[:i] + bodies[i:]
    body = b"".join(bodies)
    made = case.made._replace(body=len(body)) if rng.integers(2) else case.made
    return together(made, body)


FAMILIES = {
    flip: 2600,
    cut: 1000,
    extend: 1000,
    overwrite: 1000,
    length_lies: 250,
    shuffle_chunks: 1500,
    edit_header: 1250,
    edit_stanzas: 750,
    edit_metadata: 500,
    claim: 150,
}
REWRITTEN = (edit_header, edit_stanzas, edit_metadata)
