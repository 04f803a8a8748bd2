"""The in-graph ciphers against published vectors, `cryptography` and a dense byte-wise twin."""

import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from helpers import vectors
from helpers.table import bytes_of, make_params, random_bits, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import modellock_jax as ml
from modellock_jax.ciphers import aes, chacha
from modellock_jax.ciphers.nonces import tree_key
from modellock_jax.ciphers.sbox import substitute_bytes

hexed = bytes.fromhex
sampled = settings(derandomize=True, max_examples=25, deadline=None)
encrypt = jax.jit(aes.encrypt)


def words(data: bytes, *shape: int) -> jax.Array:
    return jnp.asarray(np.frombuffer(data, "<u4").reshape(shape or (-1,)))


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def times(a: int, b: int) -> int:
    """A product in GF(2^8), bit by bit."""
    product = 0
    for bit in range(8):
        product ^= a << bit if b >> bit & 1 else 0
    for bit in range(14, 7, -1):
        product ^= 0x11B << (bit - 8) if product >> bit & 1 else 0
    return product


def substitute(byte: int) -> int:
    """FIPS-197, 5.1.1, from its text: the inverse by search, then the affine map bit by bit."""
    inverse = next((other for other in range(256) if times(byte, other) == 1), 0)
    bits = [inverse >> i & 1 for i in range(8)]
    return sum(
        (sum(bits[(i + j) % 8] for j in (0, 4, 5, 6, 7)) + (0x63 >> i)) % 2 << i for i in range(8)
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_the_s_box_by_arithmetic_is_that_of_the_standard(dtype):
    given = np.arange(256, dtype=np.uint8).view(dtype)
    forward = substitute_bytes(jnp.asarray(given))
    right = np.array([substitute(byte) for byte in range(256)], np.uint8)
    assert bytes_of(forward) == right.tobytes()
    back = substitute_bytes(forward, inverse=True)
    assert bytes_of(back) == given.tobytes()


SBOX = bytes(substitute(byte) for byte in range(256))


def schedule(master: bytes, rounds: int) -> bytes:
    """FIPS-197, 5.2, byte by byte; beyond its rounds the constant goes on doubling in GF(2^8)."""
    out, n, constant = bytearray(master), len(master) // 4, 1
    for i in range(n, 4 * rounds):
        word = bytes(out[-4:])
        if i % n == 0:
            word = bytes(SBOX[b] for b in word[1:] + word[:1])
            word, constant = bytes([word[0] ^ constant]) + word[1:], times(constant, 2)
        elif n == 8 and i % n == 4:
            word = bytes(SBOX[b] for b in word)
        out += xor(word, bytes(out[-4 * n :][:4]))
    return bytes(out[: 16 * rounds])


def test_the_s_box_is_that_of_fips_197() -> None:
    spots = {0x00: 0x63, 0x01: 0x7C, 0x53: 0xED, 0x9A: 0xB8, 0xF0: 0x8C, 0xFF: 0x16}
    assert {byte: int(aes.SBOX[byte]) for byte in spots} == spots
    assert aes.SBOX.tobytes() == SBOX
    np.testing.assert_array_equal(aes.INV_SBOX[aes.SBOX], np.arange(256))


@pytest.mark.parametrize(
    ("expansion", "size"), [(vectors.EXPANSION_128, 16), (vectors.EXPANSION_256, 32)]
)
def test_the_key_expansion_is_that_of_fips_197(expansion: str, size: int) -> None:
    expected = hexed(expansion)
    keys = aes.key_schedule(words(expected[:size]), len(expected) // 16)
    assert bytes_of(keys).hex() == expected.hex()


@pytest.mark.parametrize(("size", "block"), [(16, vectors.BLOCK_128), (32, vectors.BLOCK_256)])
def test_one_block_is_that_of_fips_197(size: int, block: str) -> None:
    locked = encrypt(words(bytes(range(size))), words(hexed(vectors.BLOCK)))
    assert bytes_of(locked).hex() == block


@pytest.mark.parametrize(
    ("key", "locked"), [(vectors.KEY_128, vectors.ECB_128), (vectors.KEY_256, vectors.ECB_256)]
)
def test_four_blocks_are_those_of_sp_800_38a(key: str, locked: str) -> None:
    blocks = words(hexed(vectors.PLAIN), 2, 2, 4)
    assert bytes_of(encrypt(words(hexed(key)), blocks)).hex() == locked


@pytest.mark.parametrize(
    ("key", "locked"), [(vectors.KEY_128, vectors.CTR_128), (vectors.KEY_256, vectors.CTR_256)]
)
def test_counter_mode_is_that_of_sp_800_38a(key: str, locked: str) -> None:
    first = int(vectors.COUNTER, 16)
    counters = b"".join((first + i).to_bytes(16, "big") for i in range(4))
    stream = bytes_of(encrypt(words(hexed(key)), words(counters, 4, 4)))
    assert xor(stream, hexed(vectors.PLAIN)).hex() == locked


@pytest.mark.parametrize("size", [16, 32])
@sampled
@given(data=st.data())
def test_aes_is_that_of_a_host_library(size: int, data: st.DataObject) -> None:
    key = data.draw(st.binary(min_size=size, max_size=size))
    plain = data.draw(st.binary(min_size=64, max_size=64))
    host = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    assert bytes_of(encrypt(words(key), words(plain, 4, 4))) == host.update(plain)


@pytest.mark.parametrize("size", [16, 32])
def test_the_schedule_runs_on_without_a_period(size: int) -> None:
    master = hashlib.sha256(b"any key").digest()[:size]
    keys = bytes_of(aes.key_schedule(words(master), 640))
    assert keys == schedule(master, 640)
    rounds = [keys[i : i + 16] for i in range(0, len(keys), 16)]
    assert len(set(rounds)) == 640
    assert len({key[12:] for key in rounds}) > 630  # the last word does not stand still
    assert all(keys[i : i + 16] != keys[i + 3264 : i + 3280] for i in range(0, 10240 - 3264, 4))


@pytest.mark.parametrize("dtype", [jnp.uint32, jnp.float32])
@pytest.mark.parametrize("size", [16, 32])
def test_blocks_go_through_the_s_box_with_their_round_keys(size: int, dtype: Any) -> None:
    master = hashlib.sha256(b"any key").digest()[:size]
    plain = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(23))
    plain += bytes.fromhex("0000a07f000080ff0100807f000000ff")  # signalling NaNs, infinity
    keys = schedule(master, 47)
    locked = bytes(SBOX[b] for b in xor(plain, keys))

    def through(text: bytes, inverse: bool) -> bytes:
        blocks = jax.lax.bitcast_convert_type(words(text, 47, 4), dtype)
        at, first = aes.substitute_blocks(aes.init_schedule(words(master)), blocks[:18], inverse)
        return bytes_of(first) + bytes_of(aes.substitute_blocks(at, blocks[18:], inverse)[1])

    assert through(plain, inverse=False) == locked
    assert through(locked, inverse=True) == plain


@pytest.mark.parametrize(("key", "nonce", "counter", "block"), vectors.CHACHA_BLOCKS)
def test_a_block_is_that_of_rfc_8439(key: str, nonce: str, counter: int, block: str) -> None:
    stream = chacha.blocks(words(hexed(key)), words(hexed(nonce)), jnp.uint32([counter]))
    assert bytes_of(stream).hex() == block


def test_the_cipher_is_that_of_rfc_8439() -> None:
    nonce = words(hexed(vectors.SUNSCREEN_NONCE))
    stream = bytes_of(chacha.blocks(words(bytes(range(32))), nonce, jnp.uint32([1, 2])))
    assert xor(stream[:114], vectors.SUNSCREEN).hex() == vectors.SUNSCREEN_LOCKED


def host_stream(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
    cipher = algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce)
    return Cipher(cipher, None).encryptor().update(bytes(length))


@sampled
@given(
    key=st.binary(min_size=32, max_size=32),
    nonces=st.tuples(*[st.binary(min_size=12, max_size=12)] * 2),
    counters=st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(2**32 - 4, 2**32 - 1)] * 2),
)
def test_chacha_is_that_of_a_host_library(
    key: bytes, nonces: tuple[bytes, ...], counters: tuple[int, ...]
) -> None:
    """A nonce and a counter of its own for each block."""
    stream = chacha.blocks(words(key), words(b"".join(nonces), 2, 3).T, jnp.uint32(counters))
    expected = [host_stream(key, nonce, counter, 64) for nonce, counter in zip(nonces, counters)]
    assert bytes_of(stream) == b"".join(expected)


@pytest.mark.parametrize("count", [4095, 4097, pytest.param(70_001, marks=pytest.mark.slow)])
def test_many_blocks_are_the_cipher_of_a_host_library(count: int) -> None:
    """Few enough for rows, chunks that overlap at the end, and several chunks; then two keys."""
    key, nonce = bytes(range(32)), bytes(range(12))
    counters = jnp.arange(count, dtype=jnp.uint32) + 5
    expected = [host_stream(k, nonce, 5, 64 * count) for k in (key, key[::-1])]

    assert bytes_of(chacha.blocks(words(key), words(nonce), counters)) == expected[0]
    own = jnp.broadcast_to(words(nonce)[:, None], (3, count))
    assert bytes_of(chacha.blocks(words(key), own, counters)) == expected[0]
    keys = words(key + key[::-1], 2, 8)
    both = jax.vmap(chacha.blocks, (0, None, None))(keys, words(nonce), counters)
    assert [bytes_of(one) for one in both] == expected


@pytest.mark.parametrize("runs", [3, pytest.param(259, marks=pytest.mark.slow), 4391])
def test_runs_of_blocks_are_the_cipher_of_a_host_library(runs: int) -> None:
    """Each with a nonce and a first counter of its own, one of which wraps."""
    key, nonces = bytes(range(32)), [bytes([i]) * 12 for i in (7, 9)]
    both = np.stack([np.frombuffer(nonce, "<u4") for nonce in nonces], axis=1)
    own = jnp.asarray(both[:, np.arange(runs) % 2])
    counters = [16 * i for i in range(runs - 1)] + [2**32 - 16]
    stream = bytes_of(chacha.blocks(words(key), own, jnp.uint32(counters), per_counter=16))
    hosts = [host_stream(key, nonce, 0, 1024 * runs) for nonce in nonces]
    for i in range(runs - 1):
        run = slice(1024 * i, 1024 * i + 1024)
        assert stream[run] == hosts[i % 2][run]
    last = host_stream(key, nonces[(runs - 1) % 2], counters[-1], 1024)
    assert stream[-1024:] == last


def twin(master: bytes, leaves: list[bytes], restart: str) -> Iterator[bytes]:
    """Deep-Lock as its paper has it, byte by byte; AES of leaf keys from the host library."""
    aes_host = Cipher(algorithms.AES(master), modes.ECB()).encryptor()
    halves, used = len(master) // 16, 0
    for number, leaf in enumerate(leaves):
        if restart == "leaf":
            counters = range(number * halves, number * halves + halves)
            own = aes_host.update(b"".join(c.to_bytes(16, "little") for c in counters))
            stream = schedule(own, len(leaf) // 16 + 1)
        else:
            stream = schedule(master, used + len(leaf) // 16 + 1)[16 * used :]
            used += -(-len(leaf) // 16)
        yield bytes(SBOX[w ^ k] for w, k in zip(leaf, stream))


def spread(leaf: bytes, size: int, to: int) -> bytes:
    """Each `size` bytes as `to`, with zeros at the end or without those beyond."""
    if size == to:
        return leaf
    blocks = (leaf[i : i + size] for i in range(0, len(leaf), size))
    return b"".join(block[:to].ljust(to, b"\0") for block in blocks)


@pytest.mark.parametrize("key_bits", [128, 256])
@pytest.mark.parametrize("restart", ["never", "leaf"])
@pytest.mark.parametrize("packing", ["byte", "word"])
def test_deep_lock_is_its_dense_twin(key_bits: int, restart: Any, packing: Any) -> None:
    rng = jax.random.key(5)
    params = {
        "a": random_bits(rng, (7, 3), "float32"),
        "b": {"c": random_bits(rng, (9,), "bfloat16"), "d": jnp.zeros((0, 2))},
        "e": [random_bits(rng, (5, 3), "int8"), random_bits(rng, (4, 4), "float32")],
    }
    lock = ml.deep_lock(key_bits, restart, packing)
    master = hashlib.sha256(b"any key").digest()[: key_bits // 8]
    key = ml.DeepLockKey(words(master))
    locked, _ = lock.encrypt(key, params)
    leaves = [bytes_of(leaf) for leaf in jax.tree.leaves(params)]
    sizes = [16 if packing == "byte" else leaf.dtype.itemsize for leaf in jax.tree.leaves(params)]
    # What a round key does not cover passes as zeros, and is cut off again.
    wide = [spread(leaf, size, 16) for leaf, size in zip(leaves, sizes)]
    twins = [spread(leaf, 16, size) for leaf, size in zip(twin(master, wide, restart), sizes)]
    assert [bytes_of(leaf) for leaf in jax.tree.leaves(locked)] == twins
    assert same_bits(lock.decrypt(key, locked), params)


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, jax.Array]]:
    for name, value in tree.items():
        here = f"{path}/{name}" if path else name
        yield from walk(value, here) if isinstance(value, dict) else [(here, value)]


def test_stream_lock_is_chacha20_of_a_host_library_on_every_leaf() -> None:
    raw = hashlib.sha256(b"any key").digest()
    nonce = hashlib.sha256(b"any nonce").digest()[:12]
    params = make_params()
    locked, key = ml.stream_lock().encrypt(ml.StreamKey(words(raw), words(nonce)), params)
    assert (key.key == words(raw)).all()
    own = host_stream(raw, bytes_of(key.nonce), 0, 32)
    assert own == tree_key(raw, bytes_of(key.nonce))
    plain = dict(walk(params))
    assert len(plain) == 13
    for path, leaf in walk(locked):
        start = hashlib.sha256(path.encode()).digest()[:8] + bytes(4)
        stream = host_stream(own, start, 0, leaf.nbytes)
        assert xor(bytes_of(leaf), stream) == bytes_of(plain[path]), path
