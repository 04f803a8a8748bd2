"""Heads of sealed files that are changed, or claim what is not there; see `mutants`."""

import functools
import json

from helpers.sealed import ALICE, BOB, together
from modellock_jax.vault import _tensors
from modellock_jax.vault._json import canonical
from modellock_jax.vault.sealed import _header

# Headers, written as we would write them, checksum and all


def fitting(made, body):
    """Put together, with more room where the header needs it."""
    needed = len(_header.encode(made._replace(room=0))) + 8
    return together(made._replace(room=max(made.room, needed)), body)


def edit_header(case, rng):
    made, other = case.made, case.made2
    raw = rng.bytes(32)
    dates = [
        "2099-01-01T00:00:00+00:00",
        "0001-01-01T00:00:00+00:00",
        "soon",
        "2099-01-01",
        "9" * 50,
    ]
    news = [
        ("file_id", other.file_id),
        ("file_id", raw[:16]),
        ("body", int(rng.integers(2**16))),
        ("body", -1),
        ("body", 2**60),
        ("digest", b""),
        ("digest", raw),
        ("digest", other.digest),
        ("mac", raw),
        ("mac", bytes(32)),
        ("mac", other.mac),
        ("expires", dates[rng.integers(len(dates))]),
        ("room", made.room + 8 * int(rng.integers(1, 1000))),
        ("room", made.room * 2),
        ("room", case.used + int(rng.integers(100, 1000))),
        ("signatures", ()),
        ("signatures", other.signatures),
        ("signatures", made.signatures * 2),
        ("signatures", (made.signatures[0] | {"id": BOB.id},)),
        ("stanzas", other.stanzas),
        ("name", "another"),
        ("name", ""),
        ("serial", made.serial + 1),
        ("serial", 0),
        ("extra", (("more", "x"),)),
    ]
    for _ in range(rng.integers(1, 3)):
        name, value = news[rng.integers(len(news))]
        made = made._replace(**{name: value})
    return fitting(made, case.body)


def base64_noise(text, rng):
    """Another text of base64, of the same length."""
    at = int(rng.integers(len(text) - 4))
    return text[:at] + ("B" if text[at] == "A" else "A") + text[at + 1 :]


def edit_stanzas(case, rng):
    mine, other = case.made.stanzas
    others = case.made2.stanzas
    noise = mine | {"wrapped": base64_noise(mine["wrapped"], rng)}
    low = mine | {"wrapped": _header.recipients._text(bytes(1168))}
    phrase = _header.recipients._text(bytes(16)), _header.recipients._text(bytes(48))
    phrase = {"type": "passphrase", "salt": phrase[0], "wrapped": phrase[1]}
    news = [
        (mine,),
        (other, mine),
        (mine, other, other),
        (mine, mine, other),
        (mine, other, *others),
        (others[0], other),
        (mine, others[1]),
        (noise, other),
        (noise, mine, other),
        (low, other),
        (mine, other | {"wrapped": base64_noise(other["wrapped"], rng)}),
        (mine | {"type": "x25519"}, other),
        (other | {"id": ALICE.id},),
        (mine | {"id": BOB.id}, other),
        (mine, other, phrase),
        (mine | {"more": ""}, other),
        (mine | {"wrapped": mine["wrapped"][:-4]}, other),
        (mine | {"wrapped": mine["wrapped"] + "\n"}, other),
        (other,),
        (),
        (phrase,) * 9,
    ]
    return fitting(case.made._replace(stanzas=news[rng.integers(len(news))]), case.body)


# Heads, written as another tool would write them


def metadata_of(case):
    return _tensors.parse(case.data[: case.made.room]).metadata


def written(case, metadata, shape=None, end=None, text=None):
    """A file with this metadata, and the length of head that the right one has if it fits."""
    shape, end = (
        [case.made.body] if shape is None else shape,
        case.made.body if end is None else end,
    )
    table = {
        "__metadata__": metadata,
        "sealed": {"dtype": "U8", "shape": shape, "data_offsets": [0, end]},
    }
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False) if text is None else text
    head = text.encode("utf-8", "surrogatepass").ljust(case.made.room - 8)
    return len(head).to_bytes(8, "little") + head + case.body


def edit_metadata(case, rng):
    metadata = metadata_of(case)
    fields = json.loads(metadata["header"])
    what = rng.integers(10)
    if what == 0:
        metadata["version"] = ["0", "1", "3", "", "2 ", "02", "2.0"][rng.integers(7)]
    elif what == 1:
        metadata["modellock"] = ["", _header.MARK + "!", _header.MARK.upper()][rng.integers(3)]
    elif what == 2:
        metadata["about"] = "This file is not encrypted."
    elif what == 3:
        metadata["more"] = "x"
    elif what == 4:
        del metadata[list(metadata)[rng.integers(len(metadata))]]
    elif what == 5:
        metadata = dict(reversed(metadata.items()))
    elif what == 6:
        metadata["checksum"] = metadata["checksum"].upper()
    elif what == 7:  # the same fields in another spelling
        spaced, unsorted = json.dumps(fields), json.dumps(dict(reversed(fields.items())))
        metadata["header"] = [spaced, unsorted, metadata["header"] + " "][rng.integers(3)]
    else:
        name = list(fields)[rng.integers(len(fields))]
        odd = [
            None,
            True,
            1.5,
            2**60,
            -1,
            10**400,
            [],
            {},
            "",
            "\x00",
            "\ud800",
            [[]],
            [None],
            [{}],
        ]
        if what == 8:
            fields[name] = odd[rng.integers(len(odd))]
        else:
            del fields[name]
        metadata["header"] = canonical(fields).decode()
        metadata["checksum"] = _header.hashlib.sha256(metadata["header"].encode()).hexdigest()
    return written(case, metadata)


def claims(case):
    """Heads that claim what is not there, or are no JSON of one meaning, each with its file."""
    metadata, n = metadata_of(case), case.made.body
    fields = json.loads(metadata["header"])
    text = json.dumps(
        {"__metadata__": metadata, "sealed": 0}, separators=(",", ":"), ensure_ascii=False
    )
    start = text.removesuffix("0}")

    def entry(shape, end, dtype='"U8"'):
        return start + f'{{"dtype":{dtype},"shape":{shape},"data_offsets":[0,{end}]}}}}'

    def inner(new):
        return written(case, metadata | {"header": new})

    huge = 2**60
    yield from (
        written(case, metadata, [b], b) for b in (huge, 2**63, 2**64, 10**30, 0, n - 1, n + 1)
    )
    for name in ("body", "room"):
        for value in (huge, 2**63, 10**30, 0, 99_999_999):
            new = canonical(fields | {name: value}).decode()
            checksum = _header.hashlib.sha256(new.encode()).hexdigest()
            yield written(case, metadata | {"header": new, "checksum": checksum}, [value], value)
    yield from (
        written(case, metadata, shape, n) for shape in ([n, 1], [1] * 70, [huge] * 900, [[n]], n)
    )
    yield from (written(case, "", text=entry(*e)) for e in (("[1e999]", n), (f"[{n}]", "NaN")))
    yield written(case, "", text=entry(f"[{'9' * 5000}]", "9" * 5000))
    yield written(case, "", text=entry(f"[{n}.0]", n))
    yield written(case, "", text=entry(f"[{n}]", n, '"U7"'))
    yield written(case, "", text=entry(f"[{n}]", n)[:-1] + ',"sealed":{}}')
    yield written(case, "", text='{"__metadata__":{},' + entry(f"[{n}]", n)[1:])
    for deep in ("[", '{"a":', '[{"a":'):
        yield written(case, "", text=deep * (60_000 // len(deep)))
        yield inner(deep * 5_000)
    yield written(case, "", text='{"a":' + "[" * 20_000 + "]" * 20_000 + "}")
    yield inner(canonical(fields | {"recipients": [fields["recipients"]] * 3}).decode())
    yield inner(metadata["header"][:-1] + ',"room":65536}')
    yield inner(metadata["header"].replace(str(n), "NaN"))
    yield inner(metadata["header"].replace(str(n), "1" * 5000))
    yield inner("\ud800")
    for filler in ("[],", "{},", "0,", '"",', "1.5,"):
        many = 100_000 // len(filler)
        yield written(case, "", text='{"a":[' + filler * many + "0]}")
        yield inner('{"recipients":[' + filler * many + "0]}")
    same_names = "".join(
        f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},' for i in range(5000)
    )
    yield written(case, "", text="{" + same_names + start[1:] + '{"dtype":"U8"}}')


@functools.cache
def all_claims(case):
    return tuple(claims(case))


def claim(case, rng):
    hostile = all_claims(case)
    return hostile[rng.integers(len(hostile))]
