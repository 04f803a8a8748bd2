"""One record a lock: complete, true as far as rows can tell, and read from outside; one parser."""

import json
import math
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.sealed import ALICE
from helpers.table import CASES, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import modellock_jax as ml
from modellock_jax.attacks import ATTACKS
from modellock_jax.core.lock import unmasked, unscrambled
from modellock_jax.locks import SCHEMES, Break, Files, Scheme, parse
from modellock_jax.study.config import Config, default_locks, locks_and_variants
from modellock_jax.vault.locked.files import lock_file, unlock_file

pytestmark = pytest.mark.optax
ROOT = Path(__file__).parents[1]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())


@every_scheme
def test_a_record_says_what_the_lock_does(scheme):
    assert SCHEMES[scheme.name] is scheme
    assert scheme.factory.__name__ == scheme.name
    assert scheme.factory is getattr(ml, scheme.name)
    for shape in ((28, 28, 1), (32, 32, 3), (8, 8, 1)):
        lock = parse(scheme.name).complete(shape).lock
        acts = lock.scramble is not unscrambled or lock.mask is not unmasked
        assert acts == scheme.trained_under
    for text in (*scheme.variants, scheme.study):
        assert not text or parse(text).name == scheme.name
    assert scheme.broken or scheme.name == "stream_lock"


@every_scheme
def test_twins_share_their_key(scheme):
    if not scheme.twin:
        assert all(other.twin != scheme.name for other in SCHEMES.values())
        return
    assert SCHEMES[scheme.twin].twin == scheme.name
    params = {"kernel": np.ones((4, 4, 1, 3), np.float32)}
    one, other = (
        parse(name).complete((4, 4, 1)).lock.init(ALICE.source("x"), params)
        for name in (scheme.name, scheme.twin)
    )
    assert same_bits(one, other)


@every_scheme
def test_it_locks_a_file_or_says_why_not(scheme, tmp_path):
    save_file({"a/kernel": np.ones((4, 8), np.float32)}, tmp_path / "m")
    text = {"patch_shuffle": "patch_shuffle(patch=2, channels=1)"}.get(scheme.name, scheme.name)
    if isinstance(scheme.files, Files):
        info = lock_file(tmp_path / "m", tmp_path / "l", ALICE, text)
        assert scheme.worth in info.about
        unlock_file(tmp_path / "l", tmp_path / "again", ALICE)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    else:
        with pytest.raises(ValueError, match=f"^{scheme.name} cannot lock a file: it ") as fault:
            lock_file(tmp_path / "m", tmp_path / "l", ALICE, text)
        instead = [name for name in SCHEMES if f"use {name}" in scheme.files]
        assert instead or "or use stream_lock" in scheme.files
        assert all(SCHEMES[name].locks_files for name in instead)
        assert scheme.files in str(fault.value)
        assert not (tmp_path / "l").exists()


def rows_of_the_league():
    """Mean accuracies by scheme and attack, of the league and with a base: found, of the right key."""
    rows = defaultdict(list)
    for file in (ROOT / "results" / "league").glob("*/rows.jsonl"):
        for row in map(json.loads, file.read_text().splitlines()):
            if row["kind"] == "league":
                case = (file.parent.name, row["lock"], row["attack"])
                rows[case].append((row["accuracy"], row["right_key"]))
    from_base = [one for name, one in ATTACKS.items() if name.endswith("_from_base")]
    for file in (ROOT / "results" / "public_base").glob("*/rows.jsonl"):
        for row in map(json.loads, file.read_text().splitlines()):
            if row["base"] == "before fine-tuning":
                (attack,) = [one.name for one in from_base if one.fits(parse(row["lock"]).name)]
                case = (f"base, {file.parent.name}", row["lock"], attack)
                rows[case].append((row.get("accuracy", row["no_key"]), row["right_key"]))
    return {case: np.mean(found, axis=0) for case, found in rows.items()}


LEAGUE = rows_of_the_league()


@every_scheme
def test_what_broke_it_is_in_the_rows(scheme):
    for one in scheme.broken:
        if not one.attack:
            continue
        assert one.attack in ATTACKS
        names = {scheme.name, scheme.twin}
        reached = [
            right - found
            for (_, text, attack), (found, right) in LEAGUE.items()
            if attack == one.attack and parse(text).name in names
        ]
        assert reached, f"no row shows {one.attack} on {scheme.name}"
        assert min(reached) < 0.07


def test_what_breaks_a_lock_in_the_rows_is_in_its_record():
    broken = {
        (parse(text).name, attack)
        for (_, text, attack), (found, right) in LEAGUE.items()
        if found > right - 0.005
    }
    assert broken
    named = {(s.name, one.attack) for s in SCHEMES.values() for one in s.broken}
    assert broken <= named


def test_studies_run_what_the_records_say():
    assert Config().locks == default_locks()
    for data in ("mnist5k", "fashion_mnist"):
        config = json.loads((ROOT / "results" / "league" / data / "config.json").read_text())
        assert tuple(config["locks"]) == locks_and_variants()
    config = json.loads((ROOT / "results" / "main" / "mnist5k" / "config.json").read_text())
    assert tuple(config["locks"]) == default_locks()


@pytest.mark.parametrize("field", ["paper", "acts", "protects", "lies_open", "files", "name"])
def test_a_record_that_says_nothing_is_refused(field):
    complete = {name: getattr(SCHEMES["sign_flip"], name) for name in Scheme.__dataclass_fields__}
    Scheme(**complete)
    with pytest.raises(ValueError, match=r"Scheme.*(empty|identifier)"):
        Scheme(**complete | {field: ""})
    with pytest.raises(ValueError, match="name the attack or who published it"):
        Break(how="by magic")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=3,
)
SETTINGS = {
    "deep_lock": ["key_bits", "restart", "packing"], "sign_mask": ["bits", "per"], "stream_lock": [],
    "pixel_shuffle": ["block", "channels", "image_shape"],
}  # fmt: skip
link = st.sampled_from(sorted(SETTINGS)).flatmap(
    lambda name: st.dictionaries(st.sampled_from(SETTINGS[name] or ["none"]), plain).map(
        lambda given: (name, given if SETTINGS[name] else {})
    )
)


def literal(value):
    if isinstance(value, tuple):
        return "(" + "".join(f"{literal(one)}, " for one in value) + ")"
    return repr(value).replace("inf", "1e999") if isinstance(value, float) else repr(value)


def written(links):
    return " + ".join(
        f"{name}({', '.join(f'{k}={literal(v)}' for k, v in given.items())})"
        for name, given in links
    )


@settings(max_examples=80, derandomize=True, deadline=None)
@given(st.lists(link, min_size=1, max_size=3).filter(lambda links: len(written(links)) < 900))
def test_a_text_is_read_as_it_was_written(links):
    found = parse(written(links))
    assert [(one.scheme.name, one.settings) for one in found.links] == links
    assert parse(str(found)) == found
    assert str(parse(str(found))) == str(found)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.text(max_size=30) | st.text("deep_lock()+=,'\\\"1 \n#*[]{}:-", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        assert parse(str(parse(text))) == parse(text)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


BAD = {
    "deep_lock(128)": "cannot be read",
    "deep_lock(key_bits=128, key_bits=256)": "cannot be read",
    "deep_lock(**{})": "cannot be read",
    "deep_lock(key_bits=[128])": "cannot be read",
    "deep_lock(restart='\\d')": "cannot be read",
    "deep_lock+": "cannot be read",
    "deep_lock+(sign_flip+stream_lock)": "cannot be read",
    "deep_lock-sign_flip": "cannot be read",
    "ml.deep_lock()": "cannot be read",
    "": "cannot be read",
    "-" * 990: "cannot be read",
    "(" * 990: "cannot be read",
    "+".join(["deep_lock"] * 200): "cannot be read",
    "deep_lock\0": "cannot be read",
    "rot13": "there is no lock 'rot13'; the locks are pixel_shuffle, ",
    "deep_lock+rot13": "there is no lock 'rot13'",
    "deep_lock(bits=3)": "deep_lock has no setting 'bits'; its settings are key_bits, restart, packing",
    "stream_lock(bits=3)": "stream_lock has no setting 'bits'; its settings are none",
    "deep_lock(key_bits=100)": "deep_lock(key_bits=100) does not work: deep_lock: key_bits must",
    "sign_mask(bits=2.5)": "has a setting of the wrong type: bits is 2.5, and it must be of type int",
    "sign_mask(bits=True)": "has a setting of the wrong type",
    "pixel_shuffle(block='a')": "has a setting of the wrong type",
    "pixel_shuffle": "pixel_shuffle() does not work: missing a required argument: 'block'",
    "stream_lock+patch_shuffle": "patch_shuffle() does not work: missing a required argument",
}


@pytest.mark.parametrize("text", BAD)
def test_a_text_without_a_lock_says_why(text):
    with pytest.raises(ValueError) as fault:  # noqa: PT011
        parse(text).complete()
    assert BAD[text] in str(fault.value)
    assert len(str(fault.value)) < 400


def test_data_that_are_no_images_are_refused_by_the_locks_of_images():
    for name in ("pixel_shuffle", "negative_positive", "ffx", "patch_shuffle"):
        with pytest.raises(ValueError, match=f"{name}.* acts on images .*the shape \\[64\\]"):
            parse(name).complete((64,))
    assert parse("sign_mask").complete((64,)).lock


@every_scheme
def test_the_nearest_wrong_key_is_one_bit_or_swap_off_anywhere(scheme):
    key = CASES[scheme.name].pair(1)[1]
    near = jax.jit(jax.vmap(scheme.near, (0, None)))(jax.random.split(jax.random.key(3), 24), key)
    fields = [(np.asarray(a), np.asarray(b)) for a, b in zip(key, near)]
    ((right, wrong),) = [(a, b) for a, b in fields if (a != b).any()]
    places, words = set(), right.dtype == np.uint32
    for one in wrong:
        where = np.flatnonzero(one != right)
        assert len(where) == (1 if words or right.dtype == np.int8 else 2)
        bits = int(one[where[0]] ^ right[where[0]]) if words else 0
        assert not words or bits.bit_count() == 1
        # A swap keeps what is swapped.
        assert len(where) == 1 or sorted(one) == sorted(right)
        places.add((*where.tolist(), bits))
    # Of a mask the first entry of each kind is swapped; of a weight the highest exponent bit flipped.
    assert len(places) > 2 or right.dtype == bool
    assert len({bits for *_, bits in places}) > 2 or not words or scheme.name == "adv_params"


def test_a_chain_has_keys_that_are_near_and_guessed():
    spec = parse("sign_flip(bits=8) + deep_lock")
    params = {"kernel": np.ones((4, 8), np.float32)}
    key = spec.lock.init(jax.random.key(0), params)
    find = jax.jit(spec.near)
    near = [find(rng, key) for rng in jax.random.split(jax.random.key(2), 8)]
    changed = {tuple(not same_bits(a, b) for a, b in zip(key, one)) for one in near}
    assert changed == {(True, False), (False, True)}
    assert jax.tree.structure(spec.guess(jax.random.key(1), params)) == jax.tree.structure(key)
    assert spec.bits(params, {"a": (1, 8)}) == pytest.approx(math.log2(2**8 - 1) + 128)
