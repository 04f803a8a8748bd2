"""Ways to change a file: bits, stretches, lines, and the values of its JSON."""

import json
from typing import Any, NamedTuple

import numpy as np

Rng = np.random.Generator
STRANGE: list[Any] = [
    "", " ", "\0", "\u202e", "\x1b]0;x\x07", "é" * 300, "0" * 64, "A" * 44,
    "../../etc/passwd", "-1", None, True,
    -1, 0, 2**63, 2**200, 1.5, [], {}, [[]] * 50, {"a": {"a": {}}}, ["x"] * 1000,
]  # fmt: skip


class Pair(NamedTuple):
    """`data`, `other`: two files of a kind, of which the first is changed."""

    data: bytes
    other: bytes


def bits(pair: Pair, rng: Rng) -> bytes:
    """Flip one to three bits."""
    data = bytearray(pair.data)
    for at in rng.integers(0, len(data), int(rng.integers(1, 4))):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def stretches(pair: Pair, rng: Rng) -> bytes:
    """A stretch removed, repeated, zeroed, moved, or taken from the other file."""
    data, at = pair.data, int(rng.integers(len(pair.data)))
    end = min(len(data), at + int(rng.integers(1, 100)))
    some = data[at:end]
    ways = [
        data[:at] + data[end:],
        data[:end] + some + data[end:],
        data[:at] + bytes(end - at) + data[end:],
        data[:at] + data[end:] + some,
        data[:at] + pair.other[at:end] + data[end:],
        data[:at],
        data + rng.bytes(int(rng.integers(1, 50))),
        data[:at] + pair.other[at:],
    ]
    return ways[int(rng.integers(len(ways)))]


def lines(pair: Pair, rng: Rng) -> bytes:
    """A line removed, repeated, swapped, or taken from the other file; other ends of lines."""
    found = pair.data.splitlines(keepends=True)
    i, j = (int(n) for n in rng.integers(0, len(found), 2))
    others = pair.other.splitlines(keepends=True)
    swapped = list(found)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    ways = [
        found[:i] + found[i + 1 :],
        found[: i + 1] + found[i:],
        swapped,
        found[:i] + others[min(i, len(others) - 1) :][:1] + found[i + 1 :],
        [line.replace(b"\n", b"\r\n") for line in found],
        [b"\xef\xbb\xbf", *found],
    ]
    return b"".join(ways[int(rng.integers(len(ways)))])


def json_values(pair: Pair, rng: Rng) -> bytes:
    """Values of the first JSON object in the file changed, checksums of a locked head not made anew."""
    start = pair.data.find(b"{")
    text = pair.data[start:].decode("utf-8", "surrogateescape")
    try:
        document, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return bits(pair, rng)
    for _ in range(int(rng.integers(1, 3))):
        document = _changed(document, rng)
    written = json.dumps(document, separators=(",", ":"), sort_keys=bool(rng.integers(2)))
    made = written.encode("utf-8", "surrogateescape")
    rest = pair.data[start + end :] if rng.integers(2) else b"\n"
    if start == 8:  # a head with its length before it
        made = made.ljust(max(len(made), int.from_bytes(pair.data[:8], "little")))
        return len(made).to_bytes(8, "little") + made + pair.data[start + end :].lstrip(b" ")
    return pair.data[:start] + made + rest


def _changed(value: Any, rng: Rng) -> Any:
    strange = STRANGE[int(rng.integers(len(STRANGE)))]
    if isinstance(value, dict) and value and rng.integers(4):
        name = list(value)[int(rng.integers(len(value)))]
        how = int(rng.integers(6))
        if how == 0:
            return {k: v for k, v in value.items() if k != name}
        if how == 1:
            return value | {f"{name}x": strange}
        return value | {name: _changed(value[name], rng)}
    if isinstance(value, list) and value and rng.integers(3):
        i = int(rng.integers(len(value)))
        ways = [[*value, value[i]], value[:i] + value[i + 1 :], value[::-1]]
        ways.append([*value[:i], _changed(value[i], rng), *value[i + 1 :]])
        return ways[int(rng.integers(len(ways)))]
    if isinstance(value, str) and value and rng.integers(2):
        i = int(rng.integers(len(value)))
        return value[:i] + chr(int(rng.integers(32, 127))) + value[i + 1 :]
    if type(value) is int and rng.integers(2):
        return value + int(rng.integers(-2, 3))
    return strange


CHANGES = (bits, stretches, lines, json_values)
