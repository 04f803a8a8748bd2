"""Keys in shares: published vectors, every subset, what k - 1 tell, drills."""

import copy
import itertools
import pickle
import re
import sys
from collections import Counter

import pytest
import shamir_mnemonic
from helpers.hidden import RAW, SECRET, shows, told, write

from modellock_jax.vault.errors import Tampered, WrongKey
from modellock_jax.vault.keys import share_files, shares
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed.recipients import Passphrase

WORDS = Passphrase("correct horse")
# SLIP-39, test vectors with 256-bit secrets, one group and the passphrase TREZOR: 20 and 23.
ALONE = (
    "theory painting academic academic armed sweater year military elder discuss acne wildlife "
    "boring employer fused large satoshi bundle carbon diagnose anatomy hamster leaves tracks paces "
    "beyond phantom capital marvel lips brave detect luck"
)
ALONE_IS = "989baf9dcaad5b10ca33dfd8cc75e42477025dce88ae83e75a230086a0e00e92"
TWO_OF_THREE = [
    "humidity disease academic always aluminum jewelry energy woman receiver strategy amuse duckling "
    "lying evidence network walnut tactics forget hairy rebound impulse brother survive clothes "
    "stadium mailman rival ocean reward venture always armed unwrap",
    "humidity disease academic agency actress jacket gross physics cylinder solution fake mortgage "
    "benefit public busy prepare sharp friar change work slow purchase ruler again tricycle involve "
    "viral wireless mixture anatomy desert cargo upgrade",
]
TWO_OF_THREE_IS = "c938b319067687e990e05e0da0ecce1278f75ff58d9853f19dcaeed5de104aae"


def text(words, key_id, share, needed, passphrase):
    lines = ["modellock-jax share of a key, version 2", f"Key: {key_id}", f"Share: {share}"]
    return "\n".join([*lines, f"Needed: {needed}", f"Passphrase: {passphrase}", "Words:", words])


def words_of(share):
    return share._reveal().mnemonic()


def clean(error, *held):
    """No three words of a share follow one another in it, nor does it show the key."""
    said = told(error)
    # The first four words of a share are its numbers.
    parts = {three for share in held for three in threes(words_of(share).split()[4:])}
    return not shows(said) and not parts & threes(re.findall("[a-z]+", said))


def threes(words):
    return {*zip(words, words[1:], words[2:])}


# The standard


@pytest.mark.parametrize(
    ("words", "share", "needed", "secret"),
    [([ALONE], ["1 of 1"], 1, ALONE_IS), (TWO_OF_THREE, ["3 of 3", "2 of 3"], 2, TWO_OF_THREE_IS)],
    ids=["1 of 1", "2 of 3"],
)
def test_published_vectors(tmp_path, words, share, needed, secret):
    secret = Secret(bytes.fromhex(secret))
    found = []
    for i, (one, place) in enumerate(zip(words, share)):
        content = text(one, secret.id, place, needed, "yes")
        found.append(share_files.load(write(tmp_path / f"{i}.txt", content.encode())))
    assert shares.join(found, Passphrase("TREZOR")) == secret
    with pytest.raises(WrongKey, match="passphrase"):
        shares.join(found, Passphrase("trezor"))


@pytest.mark.parametrize("passphrase", [None, WORDS], ids=["plain", "passphrase"])
def test_other_tools_restore_it(passphrase):
    """By the reference implementation alone, from the words alone."""
    made = shares.split(SECRET, 3, 5, passphrase)
    given = b"correct horse" if passphrase else b""
    for pick in (made[:3], made[2:], made[::2]):
        assert shamir_mnemonic.combine_mnemonics(map(words_of, pick), given) == RAW


# k of n


@pytest.mark.parametrize(("k", "n"), [(2, 2), (2, 3), (3, 5), (4, 6), (16, 16)])
def test_any_k_restore_it_and_fewer_are_refused(k, n):
    made = shares.split(SECRET, k, n)
    assert [(one.index, one.count, one.threshold) for one in made] == [
        (i + 1, n, k) for i in range(n)
    ]
    for size in range(1, n + 1):
        for pick in itertools.combinations(reversed(made), size):
            if size >= k:
                assert shares.join(pick) == SECRET
            elif size == k - 1:
                with pytest.raises(
                    ValueError, match=f"^{size} of the .*, and {k} are needed"
                ) as caught:
                    shares.join(pick)
                assert clean(caught.value, *made)


def test_k_minus_1_shares_are_as_random_for_one_key_as_for_another():
    first, second = (shares.split(SECRET, 3, 3) for _ in range(2))
    values = [share._reveal().value for share in first + second]
    assert len(set(values)) == 6
    assert not [v for v in values if v == RAW]
    # The low bit of each byte of the first share over many splits of one key and of another.
    for raw in (bytes(32), b"\xff" * 32):
        ones, splits = Counter(), 100
        for _ in range(splits):
            value = shares.split(Secret(raw), 2, 2)[0]._reveal().value
            ones.update(i for i in range(256) if value[i // 8] >> i % 8 & 1)
        total = sum(ones.values())
        assert abs(total - 256 * splits / 2) < 5 * (256 * splits / 4) ** 0.5
        assert max(abs(ones[i] - splits / 2) for i in range(256)) < 6 * (splits / 4) ** 0.5
    # Whatever the third share says, two shares and it interpolate to some 32 bytes.
    raw_share, at = shamir_mnemonic.shamir.RawShare, shamir_mnemonic.shamir._interpolate
    known = [raw_share(share._reveal().index, share._reveal().value) for share in first[:2]]
    reached = {at([*known, raw_share(2, bytes([third]) * 32)], 255)[0] for third in range(256)}
    assert reached == set(range(256))


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 3), (0, 3), (4, 3), (2, 17), (-1, 2)])
def test_numbers_that_cannot_be(k, n):
    with pytest.raises(ValueError, match=f"{k} of {n} shares cannot be"):
        shares.split(SECRET, k, n)


def test_shares_that_do_not_belong_together():
    ours, again, theirs = (shares.split(s, 2, 3) for s in (SECRET, SECRET, Secret(bytes(32))))
    more = shares.split(SECRET, 3, 3)
    cases = {
        "shares of two keys: share 1 of 3 is of": (ours[0], theirs[1]),
        "were not split together": (ours[0], again[1]),
        "share 1 of 3 and share 2 of 3 were not split together": (ours[0], more[1], more[2]),
        "are both share 1; give one": (ours[0], ours[0]),
        "no shares": (),
    }
    for message, some in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            shares.join(some)
        assert clean(caught.value, *some)


def test_a_passphrase_is_needed_and_no_more():
    with_words, without = shares.split(SECRET, 2, 3, WORDS), shares.split(SECRET, 2, 3)
    assert shares.join(with_words[1:], WORDS) == SECRET
    assert all(one.passphrase for one in with_words)
    assert with_words[0]._reveal().iteration_exponent == 6  # 640,000 rounds
    with pytest.raises(ValueError, match="were split with a passphrase; give it"):
        shares.join(with_words)
    with pytest.raises(ValueError, match="have no passphrase; omit it"):
        shares.join(without, WORDS)
    with pytest.raises(WrongKey, match="the passphrase is not that of") as caught:
        shares.join(with_words, Passphrase("Correct horse"))
    assert clean(caught.value, *with_words)
    with pytest.raises(ValueError, match="printable ASCII"):
        shares.split(SECRET, 2, 3, Passphrase("Schlüssel"))


def test_a_forged_share_is_found_even_if_others_suffice():
    """Its checksum holds; only the others contradict it."""
    made = shares.split(SECRET, 2, 4)
    true = made[3]._reveal()
    forged = type(true)(**{**vars(true), "value": bytes([true.value[0] ^ 1]) + true.value[1:]})
    given = [*made[:3], shares.Share(forged, SECRET.id, 4, False)]
    assert shares.join(given[:3]) == SECRET
    for check in (shares.join, lambda given: shares.drill(given, SECRET)):
        with pytest.raises(Tampered, match=r"share 4 of 4 do not fit together") as caught:
            check(given)
        assert clean(caught.value, *made)


def test_shares_must_agree_though_each_combination_fits(monkeypatch):
    """As after 2**32 attempts at a forgery: here no digest is checked."""

    def unchecked(k, points):
        return shamir_mnemonic.shamir._interpolate(points, 255) if k > 1 else points[0].data

    monkeypatch.setattr(shamir_mnemonic.shamir, "_recover_secret", unchecked)
    made = shares.split(SECRET, 2, 3)
    true = made[0]._reveal()
    forged = type(true)(**{**vars(true), "value": true.value[:-1] + bytes([true.value[-1] ^ 1])})
    assert shares.join(made) == SECRET
    with pytest.raises(Tampered, match="do not fit together"):
        shares.join([shares.Share(forged, SECRET.id, 3, False), *made[1:]])


def test_a_changed_key_id_is_no_wrong_passphrase():
    made = [shares.Share(one._reveal(), "0" * 16, 3, False) for one in shares.split(SECRET, 2, 3)]
    with pytest.raises(Tampered, match="restore a key that is not 0000000000000000"):
        shares.join(made)


# The drill


def test_a_drill_tries_every_combination(monkeypatch):
    tried = []
    recover = shamir_mnemonic.recover_ems

    def spy(groups):
        tried.append(frozenset(share.index for share in groups[0]))
        return recover(groups)

    monkeypatch.setattr(shamir_mnemonic, "recover_ems", spy)
    made = shares.split(SECRET, 3, 5)
    assert shares.drill(made, SECRET) == (SECRET.id, 3, 10, 10)
    assert {*tried} == {*map(frozenset, itertools.combinations(range(5), 3))}
    assert len(tried) == 10
    tried.clear()
    many = shares.drill(shares.split(SECRET, 8, 16), SECRET.id)
    assert many.possible == 12870
    assert 900 < many.tried < 1010
    assert many.tried == len(tried) == len({*tried})
    assert frozenset.union(*tried) == {*range(16)}


def test_a_drill_gives_nothing_away_and_knows_the_key():
    made = shares.split(SECRET, 2, 3, WORDS)
    done = shares.drill(made, SECRET, WORDS)
    assert not shows(repr(done))
    with pytest.raises(WrongKey, match=f"shares of key {SECRET.id}, not of"):
        shares.drill(made, Secret(bytes(32)), WORDS)
    with pytest.raises(WrongKey, match=f"shares of key {SECRET.id}, not of 0"):
        shares.drill(made, "0" * 16, WORDS)
    with pytest.raises(ValueError, match="and 2 are needed"):
        shares.drill(made[:1], SECRET, WORDS)


def test_a_share_shows_nothing():
    (share, _) = shares.split(SECRET, 2, 2)
    assert repr(share) == f"Share(1 of 2, key={SECRET.id!r})" == f"{share}"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            attempt(share)
    with pytest.raises(TypeError, match="__dict__"):
        vars(share)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "shamir_mnemonic", None)
    with pytest.raises(ImportError, match=r'clone .* pip install -e "\.\[backup\]"'):
        shares.split(SECRET, 2, 3)
