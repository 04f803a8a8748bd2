"""A locked model as one file that runs without this package: the key is an argument of it."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from helpers.table import CASES, bytes_of, forward, images, make_params

import modellock_jax as ml
from modellock_jax.locks import SCHEMES

NAMES = [*SCHEMES, "deep_lock-256-leaf", "pixel_shuffle+deep_lock"]

RUNNER = """
import pickle, sys
sys.modules["modellock_jax"] = None  # from here on nobody can import it
import jax
from jax import export

try:
    import modellock_jax
except ImportError:
    pass
else:
    raise SystemExit("the package can be imported")
for file in sys.argv[1:]:
    with open(file, "rb") as f:
        model, batches = pickle.load(f)
    served = export.deserialize(bytearray(model))
    with open(file, "wb") as f:
        pickle.dump([jax.device_get(served.call(*batch)) for batch in batches], f)
assert not [name for name, module in sys.modules.items() if module and "modellock" in name]
"""


def run_without_the_package(files):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "JAX_PLATFORMS": "cpu"
    }
    runner = subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, files)],
        capture_output=True, text=True, check=False, env=environment, cwd=files[0].parent,
    )  # fmt: skip
    assert runner.returncode == 0, runner.stderr


def keys_and_locked(name, lock):
    """Two keys, and parameters locked under the first."""
    params = make_params(dtypes=["bfloat16"])
    rngs = jax.random.split(jax.random.key(1))
    if name == "adv_params":  # a thief's key, and no search
        return [SCHEMES["adv_params"].guess(lock, rng, params) for rng in rngs], params
    init = jax.jit(lock.init)
    first, second = (init(rng, params) for rng in rngs)
    locked, first = jax.jit(lock.encrypt)(first, params)
    return [first, second], locked


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """For each lock, what the saved model answers and what the lock's user gets: three images with
    the right key, and with another key, and once two images."""
    folder, expected = tmp_path_factory.mktemp("served"), {}
    for name in NAMES:
        lock = CASES[name].lock
        (key, other), locked = keys_and_locked(name, lock)
        tree, user = jax.tree.structure(key), ml.user_forward(lock, forward)

        # Arrays alone go in and out: a file that held this package's own types would need it.
        def serve(key, locked, x, tree=tree, user=user):
            return user(jax.tree.unflatten(tree, key), locked, x)

        batch = jax.export.symbolic_shape("batch, 4, 4, 1")
        served = jax.export.export(jax.jit(serve), platforms=("cpu", "cuda"))(
            jax.tree.leaves(key), locked, jax.ShapeDtypeStruct(batch, jnp.float32)
        )
        given = [(key, 3), (other, 3)] + [(key, 2)] * (name == NAMES[-1])
        batches = [(jax.tree.leaves(k), locked, images(batch=n)) for k, n in given]
        content = bytes(served.serialize()), jax.device_get(batches)
        (folder / name).write_bytes(pickle.dumps(content))
        compiled = jax.jit(user)
        expected[name] = [compiled(k, locked, images(batch=n)) for k, n in given]
    run_without_the_package([folder / name for name in NAMES])
    return {n: (pickle.loads((folder / n).read_bytes()), expected[n]) for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_answers_as_the_user_without_the_package(answers, name):
    found, expected = answers[name]
    assert [bytes_of(y) for y in found] == [bytes_of(y) for y in expected]
    assert [y.shape for y in found] == [y.shape for y in expected]
    assert bytes_of(found[0]) != bytes_of(found[1])


def test_the_readme_in_a_nutshell(tmp_path):
    params = {"dense": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)}}
    net = lambda p, x, tap=ml.untapped: tap("dense", x @ p["dense"]["kernel"])  # noqa: E731
    lock, x = ml.stream_lock(), jnp.ones((2, 4))
    locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)

    user = ml.user_forward(lock, net)
    served = jax.jit(lambda key, locked, x: user(ml.StreamKey(*key), locked, x))
    exported = jax.export.export(served)(tuple(key), locked, x)
    Path(tmp_path / "model").write_bytes(exported.serialize())

    loaded = jax.export.deserialize(bytearray(Path(tmp_path / "model").read_bytes()))
    assert bytes_of(loaded.call(tuple(key), locked, x)) == bytes_of(net(params, x))
