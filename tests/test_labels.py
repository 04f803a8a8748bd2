"""One label, and a key for each lock, its settings and its place; paths and keys that do not mix."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.hidden import SECRET
from helpers.table import same_bits
from test_locked_files import ALICE

import modellock_jax as ml
from modellock_jax import attacks
from modellock_jax.core.paths import paths
from modellock_jax.study.store import save_params
from modellock_jax.vault.locked.files import lock_file, unlock_file

PARAMS = {
    "dense": {"kernel": np.ones((16, 8), np.float32), "bias": np.ones(8, np.float32)},
    "head": {"kernel": np.ones((8, 8), np.float32)},
}
# Settings that draw another key, by lock; twins are told apart below.
SETTINGS = {
    "stream_lock": [ml.stream_lock()],
    "deep_lock": [
        ml.deep_lock(bits, how, packing)
        for bits in (128, 256) for how in ("never", "leaf") for packing in ("byte", "word")
    ],
    "adv_params": [
        *(ml.adv_params(count=n) for n in (1, 2, 48)),
        ml.adv_params(step=0.5), ml.adv_params(margin=0.1), ml.adv_params(budget=2),
        ml.adv_params(pool=0.25), ml.adv_params(stop=3.0),
    ],
    "signs": [
        *(ml.sign_mask(n, per) for n in (64, 256) for per in ("channel", "unit")),
        *(ml.sign_flip(n) for n in (128, 512)),
    ],
    "shuffles": [ml.pixel_shuffle(b, c) for b, c in ((7, 3), (8, 1), (14, 1))],
    "negatives": [ml.negative_positive(b, c) for b, c in ((8, 3), (16, 1))],
    "ffx": [ml.ffx(b, c) for b, c in ((4, 1), (8, 3))],
    "only": [
        ml.only(ml.stream_lock(), lambda path: "dense" in path),
        ml.only(ml.stream_lock(), lambda path: "head" in path),
        ml.only(ml.deep_lock(), lambda path: "dense" in path),
    ],
}  # fmt: skip


class Drawn:
    """A source that notes the words it gives."""

    def __init__(self, source, given):
        self.source, self.given = source, given

    def words(self, n):
        found = self.source.words(n)
        self.given.append(found)
        return found

    def split(self, n):
        return [Drawn(one, self.given) for one in self.source.split(n)]

    def for_lock(self, lock):
        return Drawn(self.source.for_lock(lock), self.given)


def words_of(lock):
    given = []
    lock.init(Drawn(SECRET.source("model/v1"), given), PARAMS)
    return given


def at(n, place, lock):
    """`lock` as one of n links."""
    return ml.chain(*[ml.ffx(9, 1)] * (place - 1), lock, *[ml.ffx(9, 1)] * (n - place))


def test_no_lock_setting_or_place_shares_a_word_of_one_label():
    """Every lock and setting, alone and at six places of chains: over 200 draws, 20,000 pairs."""
    found = []
    for lock in itertools.chain(*SETTINGS.values()):
        found.append(words_of(lock)[0])
        for n, place in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3)):
            found.append(words_of(at(n, place, lock))[place - 1])
        found.append(words_of(at(2, 2, ml.chain(lock)))[1])
    assert len(found) > 200
    # Single words of 32 bits meet by chance; two that follow one another do not.
    runs = [{(int(a), int(b)) for a, b in itertools.pairwise(one)} for one in found]
    assert all(runs)
    assert sum(map(len, runs)) == len(set().union(*runs))


def test_exact_twins_share_their_key():
    def key(lock):
        return jax.tree.leaves(lock.init(SECRET.source("a"), PARAMS))

    patch = {"embed": {"kernel": jnp.zeros((4, 4, 1, 2))}}
    shuffle = ml.patch_shuffle(4, channels=1).init(SECRET.source("a"), patch)
    assert same_bits(key(ml.sign_mask(64)), key(ml.sign_flip(64)))
    assert same_bits(key(ml.pixel_shuffle(4, channels=1)), jax.tree.leaves(shuffle))
    assert same_bits(key(ml.pixel_shuffle(4, 1, (8, 8, 1))), key(ml.pixel_shuffle(4, 1)))
    assert not same_bits(key(ml.sign_mask(64, per="unit")), key(ml.sign_flip(64)))


@pytest.mark.parametrize("key_bits", [128, pytest.param(256, marks=pytest.mark.slow)])
def test_a_key_of_deep_lock_opens_nothing_under_the_same_label(key_bits):
    """Once `deep_lock(256)` and `stream_lock` shared it, and its attack opened both."""
    weights = {"w": jax.random.normal(jax.random.key(1), (2048,)) / 20}
    deep, stream = ml.deep_lock(key_bits), ml.stream_lock()
    source = SECRET.source("resnet/v1")
    deep_locked, _ = deep.encrypt(deep.init(source, weights), weights)
    found = attacks.deep_lock_ciphertext_only(deep_locked, key_bits)
    stream_key = stream.init(source, weights)
    assert not set(np.asarray(found.master).tolist()) & set(np.asarray(stream_key.key).tolist())
    others = [ml.deep_lock(b, how) for b in (128, 256) for how in ("never", "leaf")]
    chained = ml.chain(deep, stream).init(source, weights)[0]
    keys = [lock.init(source, weights) for lock in others] + [chained]
    assert [bool(np.array_equal(found.master, key.master)) for key in keys].count(True) == 1


def test_a_label_of_two_locked_files_gives_two_keys(tmp_path):
    from safetensors.numpy import load_file, save_file

    weights = {"w": np.asarray(jax.random.normal(jax.random.key(1), (2048,)) / 20)}
    save_file(weights, tmp_path / "m")
    masters = []
    for scheme in ("deep_lock(key_bits=256)", "deep_lock(key_bits=256)", "deep_lock+stream_lock"):
        lock_file(tmp_path / "m", tmp_path / "l", ALICE, scheme, label="model/v1")
        now = jax.tree.map(jnp.asarray, load_file(tmp_path / "l"))
        if "+" not in scheme:
            masters.append(attacks.deep_lock_ciphertext_only(now, 256).master)
        unlock_file(tmp_path / "l", tmp_path / "again", ALICE)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    assert not np.isin(*map(np.asarray, masters)).any()


X, Y = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
ALIKE = {
    "a name with a slash": {"a/kernel": X, "a": {"kernel": Y}},
    "a number": {"kernel": [X], "kernel/0": Y},
    "an integer key": {"kernel": {0: X}, "kernel/0": Y},
    "a sibling of another branch": {"x/kernel": X, "x": {"bias": Y}},
    "a leaf and a branch": {"kernel": X, "kernel/b": Y},
    "deeper": {"a": {"b/kernel": X, "b": {"kernel": Y}}},
}
LOCKS = {
    "stream_lock": ml.stream_lock(), "deep_lock": ml.deep_lock(), "sign_flip": ml.sign_flip(4),
    "adv_params": ml.adv_params(count=1), "patch_shuffle": ml.patch_shuffle(2, channels=1),
    "only": ml.only(ml.deep_lock(), lambda path: True),
}  # fmt: skip


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("tree", ALIKE)
def test_paths_that_read_alike_are_refused_by_name(lock, tree):
    with pytest.raises(ValueError, match="two places in the parameters read `"):
        LOCKS[lock].init(jax.random.key(0), ALIKE[tree])
    good = {"kernel": X}
    key = LOCKS[lock].init(jax.random.key(0), good)
    with pytest.raises(ValueError, match="two places in the parameters read `"):
        LOCKS[lock].decrypt(key, ALIKE[tree])


def test_a_study_refuses_models_whose_names_read_alike(tmp_path):
    with pytest.raises(ValueError, match="two places in the parameters read `a`"):
        save_params(tmp_path / "m", ALIKE["a name with a slash"])
    assert not list(tmp_path.iterdir())


def test_flat_names_and_names_with_dots_stay_what_they_are():
    flat = {"a/kernel": X, "a/bias": X[0], "a.b": X, "c": {"0": X}, "d": [X, Y]}
    assert sorted(jax.tree.leaves(paths(flat))) == [
        "a.b",
        "a/bias",
        "a/kernel",
        "c/0",
        "d/0",
        "d/1",
    ]


def test_leaves_whose_names_hash_alike_are_refused(monkeypatch):
    from modellock_jax.locks import _stream_tree

    monkeypatch.setattr(_stream_tree, "leaf_nonce", lambda path: np.array([1, 2], np.uint32))
    with pytest.raises(ValueError, match="the leaves `a` and `b` would share a key stream"):
        ml.stream_lock().encrypt(ml.stream_lock().init(jax.random.key(0), X), {"a": X, "b": Y})


KEYED = {
    "stream_lock": ml.stream_lock(), "deep_lock": ml.deep_lock(), "adv_params": ml.adv_params(),
    "sign_mask": ml.sign_mask(), "pixel_shuffle": ml.pixel_shuffle(4, 1),
    "negative_positive": ml.negative_positive(4, 1), "ffx": ml.ffx(4, 1),
    "chain": ml.chain(ml.stream_lock(), ml.sign_flip()),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_a_key_never_prints(name):
    key = KEYED[name].init(SECRET.source("a"), PARAMS)
    leaves = jax.tree.leaves(key)
    for text in (repr(key), str(key), f"{key}", repr([key]), repr({"k": key})):
        assert not any(
            str(word) in text for leaf in leaves for word in leaf.tolist() if abs(word) > 1024
        )
        assert "[" in text
        assert "Array" not in text


def test_an_error_about_a_key_shows_none_of_it():
    key = ml.stream_lock().init(SECRET.source("a"), PARAMS)
    with pytest.raises((TypeError, ValueError)) as fault:
        ml.deep_lock().encrypt(key, PARAMS)
    assert not any(str(word) in str(fault.value) for word in key.key.tolist())
