"""Every example runs, and shows what it says."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.optax


def run(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()


def test_linen_loop():
    found = run("linen_loop")
    assert found["right key"] > 0.85
    assert max(found["wrong key"], found["no key"]) < 0.5


def test_nnx_loop():
    found = run("nnx_loop")
    assert found["right key"] > 0.85 > 0.6 > found["no key"]


def test_task_of_your_own():
    found = run("task_of_your_own")
    assert found["after"] < 0.5 * found["before"]


def test_thousand_keys():
    found = run("thousand_keys")
    assert found.shape == (1000,)
    assert found.max() < 1


def test_attack_your_model():
    found = run("attack_your_model")
    assert found["deep_lock_base_model"]
    assert "fine_tune" not in found


def test_lock_of_your_own():
    assert run("lock_of_your_own") == {"kernel": True, "bias": True}


def test_ship_a_checkpoint():
    assert run("ship_a_checkpoint")["dense/kernel"].shape == (4, 2)


def test_serve_locked():
    np.testing.assert_array_equal(run("serve_locked"), [[3, 5, 7]])


def test_attack_of_your_own():
    found, key = run("attack_of_your_own")
    assert (found.key.signs == key.signs).all()
    # All keys on all inputs.
    assert found.passes == 16 * 64


def test_command_of_your_own():
    assert run("command_of_your_own") == "32 bytes in 1 tensors\n"


def test_every_example_is_short_and_tested():
    text = Path(__file__).read_text()
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text().splitlines()) < 80
        assert f'run("{file.stem}")' in text
