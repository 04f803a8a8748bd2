"""Sealed files opened onto devices: the same bits, only what each device needs, bounded memory."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.sealed import ALICE, public
from jax import NamedSharding, P
from jax.sharding import SingleDeviceSharding
from test_checkpoint import any_bits

from modellock_jax.vault._tensors import DTYPES
from modellock_jax.vault.checkpoint import to_names
from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.sealed import _chunks, devices, envelope, opened

NARROW = [dtype for dtype in DTYPES.values() if dtype.itemsize <= 4]


@pytest.fixture
def small(monkeypatch):
    """Chunks and blocks so small that every case has many."""
    monkeypatch.setattr(_chunks, "CHUNK", 64)
    monkeypatch.setattr(devices, "_BLOCK", 256)


def mesh():
    return jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4])


def same_bits(found, expected):
    found = np.asarray(found)
    return (found.dtype, found.shape) == (expected.dtype, expected.shape) and (
        found.tobytes() == expected.tobytes()
    )


def seal(path, arrays):
    envelope.seal(arrays, path, [public(ALICE)])
    return envelope.open(path, ALICE)


SPECS = [
    P(), P("x"), P(None, "x"), P(("x", "y")), P("x", "y"), P("y", None, "x"), P(None, None, "y"),
    P(None, ("y", "x")),
]  # fmt: skip
SHAPES = [(), (0,), (4,), (0, 4, 4), (4, 0, 8), (4, 4), (64, 4), (4, 400), (4, 4, 4), (8, 12, 40),
          (2, 200, 2), (4, 4, 4, 4)]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_any_sharding_of_any_shape(small, tmp_path, spec):
    shapes = [shape for shape in SHAPES if len(shape) >= len(spec)]
    arrays = {f"{i}/w": any_bits(np.dtype("f4"), s, i) for i, s in enumerate(shapes)}
    sharding = NamedSharding(mesh(), spec)
    for name in [n for n, a in arrays.items() if not fits(sharding, a)]:
        del arrays[name]
    with seal(tmp_path / "m", arrays) as sealed:
        arrived = devices.on_devices(sealed, sharding)
    assert len(arrays) >= 2
    for i, array in arrays.items():
        found = arrived[i.split("/")[0]]["w"]
        assert found.sharding == sharding
        assert found.committed
        assert same_bits(found, array), array.shape
        for shard in found.addressable_shards:
            assert same_bits(shard.data, array[shard.index])


def fits(sharding, array):
    try:
        sharding.shard_shape(array.shape)
    except ValueError:
        return False
    return True


def test_every_dtype_keeps_its_bits(small, tmp_path):
    arrays = {str(dtype): any_bits(dtype, (8, 24)) for dtype in NARROW}
    one = SingleDeviceSharding(jax.devices()[2])
    with seal(tmp_path / "m", arrays) as sealed:
        for sharding in (NamedSharding(mesh(), P("x", "y")), one):
            arrived = devices.on_devices(sealed, sharding)
            assert {name for name, a in arrays.items() if same_bits(arrived[name], a)} == {*arrays}
    assert len(arrays) == 15


def test_64_bits_are_kept_or_refused(tmp_path):
    arrays = {"a": np.array([np.pi, np.inf]), "b": np.array([2**62 + 1, -1])}
    sharding = NamedSharding(mesh(), P("x"))
    with seal(tmp_path / "m", arrays) as sealed:
        with pytest.raises(
            ValueError, match=r"'a' is float64, which JAX narrows; set jax_enable_x64"
        ):
            devices.on_devices(sealed, sharding)
        with jax.enable_x64(True):
            arrived = devices.on_devices(sealed, sharding)
            assert all(same_bits(arrived[name], array) for name, array in arrays.items())


def test_shardings_by_name_and_trees(tmp_path):
    arrays = {"a/w": any_bits(np.dtype("f4"), (4, 4)), "a/b": any_bits(np.dtype("f4"), (4,))}
    rows, whole = NamedSharding(mesh(), P("x")), NamedSharding(mesh(), P())
    asked = []

    def choose(name, shape):
        asked.append((name, shape.shape, shape.dtype))
        return rows if name.endswith("w") else whole

    with seal(tmp_path / "m", arrays) as sealed:
        for sharding in (choose, {"a": {"w": rows, "b": whole}}, {"a/w": rows, "a/b": whole}):
            arrived = devices.on_devices(sealed, sharding)["a"]
            assert (arrived["w"].sharding, arrived["b"].sharding) == (rows, whole)
            assert same_bits(arrived["w"], arrays["a/w"])
            assert same_bits(arrived["b"], arrays["a/b"])
        like = jax.eval_shape(
            lambda: {"a": {"b": jax.numpy.zeros(4), "w": jax.numpy.zeros((4, 4))}}
        )
        assert jax.tree.structure(devices.on_devices(sealed, rows, like)) == jax.tree.structure(
            like
        )
    assert sorted(asked) == [("a/b", (4,), np.float32), ("a/w", (4, 4), np.float32)]


def test_what_cannot_be_is_refused_before_anything_is_decrypted(tmp_path, monkeypatch):
    arrays = {"w": np.ones((4, 3), "f4"), "b": np.ones((), "f4")}
    rows = NamedSharding(mesh(), P("x"))
    with seal(tmp_path / "m", arrays) as sealed:
        monkeypatch.setattr(_chunks.Cipher, "open", None)
        for sharding, error, message in (
            (rows, ValueError, r"'b' of shape \[\] has too few axes"),
            (
                NamedSharding(mesh(), P(None, "x")),
                ValueError,
                r"'(b|w)' of shape \[.*\] (has|does)",
            ),
            ({"w": rows}, ValueError, "differ in 1 names: b"),
            ({"w": rows, "b": rows, "c": rows}, ValueError, "differ in 1 names: c"),
            (P("x"), TypeError, "a P.* is no Sharding; give NamedSharding"),
            (lambda *_: P(), TypeError, "a P.* is no Sharding"),
        ):
            with pytest.raises(error, match=message):
                devices.on_devices(sealed, sharding)
        with pytest.raises(ValueError, match="1 arrays are not in `like`: b"):
            devices.on_devices(sealed, rows, {"w": arrays["w"]})


def test_a_changed_chunk_opens_nowhere(small, tmp_path):
    with seal(tmp_path / "m", {"w": np.ones((4, 4), "f4")}):
        pass
    content = bytearray((tmp_path / "m").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m").write_bytes(content)
    with envelope.open(tmp_path / "m", ALICE) as sealed, pytest.raises(Tampered):
        devices.on_devices(sealed, NamedSharding(mesh(), P("x")))


def opened_chunks(monkeypatch):
    """The numbers of the chunks that are decrypted from now on."""
    numbers, real = [], _chunks.Cipher.open

    def spy(cipher, chunk, *buffers):
        numbers.append(chunk)
        real(cipher, chunk, *buffers)

    monkeypatch.setattr(_chunks.Cipher, "open", spy)
    return numbers


def test_each_shard_decrypts_its_own_chunks(small, tmp_path, monkeypatch):
    """1280 bytes behind a head, in chunks of 64; each border lies within a chunk, which both decrypt."""
    with seal(tmp_path / "m", {"w": any_bits(np.dtype("f4"), (8, 40))}) as sealed:
        (tensor,) = sealed.directory.tensors
        first = opened.INDEX + len(sealed.directory.head)
        numbers = opened_chunks(monkeypatch)

        def holding(shards):
            """The chunks of so many equal parts, one after another."""
            size = 1280 // shards
            ends = [(first + i * size, first + (i + 1) * size - 1) for i in range(shards)]
            return [n for low, high in ends for n in range(low // 64, high // 64 + 1)]

        for spec, shards in (
            (P("x"), 2),
            (P(("x", "y")), 4),
            (P(), 1),
        ):  # once, for all that hold it
            numbers.clear()
            devices.on_devices(sealed, NamedSharding(mesh(), spec))
            assert sorted(numbers) == sorted(holding(shards)), spec
        for rows in range(8):
            numbers.clear()
            sealed.read(tensor, 160 * rows, memoryview(bytearray(160)))
            begin = first + 160 * rows
            assert sorted(numbers) == [*range(begin // 64, (begin + 159) // 64 + 1)]


@pytest.mark.parametrize("start", [0, 1, 63, 64, 65, 100, 640])
def test_any_range_of_a_tensor(small, tmp_path, start):
    array = any_bits(np.dtype("u1"), (700,))
    with seal(tmp_path / "m", {"w": array}) as sealed:
        (tensor,) = sealed.directory.tensors
        for length in (0, 1, 27, 28, 29, 60, 64, 128, 200, 600):
            data = bytearray(min(length, 700 - start))
            sealed.read(tensor, start, memoryview(data))
            assert data == array.tobytes()[start : start + length]


WORKER = """
import json, os, sys
import jax
import numpy as np
from jax import NamedSharding, P
from helpers.sealed import ALICE
from modellock_jax.vault.sealed import devices, envelope

file, spec = sys.argv[1], P(*json.loads(sys.argv[2]))
mesh = jax.make_mesh((8,), ("x",))
sharding = NamedSharding(mesh, spec)
jax.device_put(np.ones(8), NamedSharding(mesh, P("x"))).block_until_ready()
written = []


def note(event, args):
    if event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        written.append(str(args[0]))


def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


with envelope.open(file, ALICE) as sealed:
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = status("VmRSS:")
    sys.addaudithook(note)
    big = devices.on_devices(sealed, sharding)["w"].block_until_ready()
    beside = status("VmHWM:") - before - big.nbytes
    print(json.dumps({
        "devices": len(big.sharding.device_set),
        "shard": big.addressable_shards[0].data.nbytes,
        "right": all(
            np.array_equal(shard.data, np.arange(big.size, dtype="u4").reshape(big.shape)[shard.index])
            for shard in big.addressable_shards
        ),
        "beside": beside,
        "written": written,
    }))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("spec", "more"), [(["x"], 12), ([None, "x"], 20)], ids=["rows", "columns"]
)
def test_eight_devices_and_the_memory_of_one_shard(tmp_path, spec, more):
    """128 MiB in shards of 16: the host holds one, and a few MiB, beside what the devices hold."""
    array = np.arange(2**25, dtype=np.uint32).reshape(4096, 8192)
    seal(tmp_path / "m", {"w": array}).close()
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        # What is freed goes back to the system at once, so that the peak is that of what is held.
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "m"), json.dumps(spec)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["devices"], found["shard"], found["right"]) == (8, 2**24, True)
    assert found["beside"] < found["shard"] + more * 2**20
    assert found["written"] == []


def test_a_tree_of_a_trained_model_comes_back(tmp_path):
    params = {"params": {"Dense_0": {"kernel": jax.numpy.ones((8, 4)), "bias": jax.numpy.zeros(4)}}}
    with seal(tmp_path / "m", to_names(params)) as sealed:
        arrived = devices.on_devices(sealed, NamedSharding(mesh(), P("x")), params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), arrived, params))
