"""The speed table: its arithmetic, its rows, and the command."""

import json
import time

import numpy as np
import pytest
from helpers.commands import bad

from modellock_jax.bench import run as bench
from modellock_jax.bench import training as bench_training
from modellock_jax.bench.timing import alternate, in_pairs, median_with_interval, row


def test_the_ratio_is_the_median_within_rounds_with_an_interval_around_it():
    # A machine three times slower in half of the rounds slows both: the ratio stays at two.
    plain = np.array([1.0, 3.0] * 10)
    found = row("p", "c", "n", 1.0, "s", limit="plain", ratios=2 * plain / plain)
    assert (found["ratio"], found["low"], found["high"]) == (2.0, 2.0, 2.0)
    median, low, high = median_with_interval(np.arange(101.0))
    assert median == 50
    assert 30 < low < 50 < high < 70


@pytest.mark.parametrize(
    ("ratio", "sense", "met"), [(1.03, "<=", False), (1.02, "<=", True), (1.9, ">=", False)]
)
def test_a_target_is_printed_as_met_or_missed(ratio, sense, met):
    target = 1.02 if sense == "<=" else 2.0
    found = row("p", "c", "n", 1.0, "s", ratios=np.full(5, ratio), sense=sense, target=target)
    assert found["met"] is met
    assert bench.grid([found], "p").rows[-1][-1] == ("met" if met else "missed")


def test_without_ratios_the_value_is_held_against_the_target():
    assert not row("p", "c", "n", 1.4, "GB/s", target=1.5)["met"]
    assert row("p", "c", "n", None, "GB/s", target=1.5)["met"] is None


def test_contestants_take_turns_and_warm_up_is_not_counted():
    order = []

    def call(name, first):
        def run():
            if name not in order:
                time.sleep(first)
            order.append(name)

        return run

    seconds = alternate({"a": call("a", 0.2), "b": call("b", 0.0)}, 0.0, min_rounds=4)
    assert order == ["a", "b"] * 2 + ["b", "a", "a", "b"] * 2
    assert {len(taken) for taken in seconds.values()} == {4}
    assert seconds["a"].max() < 0.1


def test_beside_one_other_alone_and_only_the_second_call_of_a_turn_counts():
    order = []

    def call(name):
        def run():
            first = not order or order[-1] != name
            order.append(name)
            time.sleep(0.05 * first)

        return run

    calls = {name: call(name) for name in ("plain", "a", "b")}
    found = in_pairs("plain", calls, {"a": 0.0, "b": 0.0}, min_rounds=3, warm=True)
    assert list(found) == ["a", "b"]
    assert not {"a", "b"} <= set(order[: len(order) // 2])
    for taken, limit in found.values():
        assert len(taken) == len(limit) == 3
        assert max(taken.max(), limit.max()) < 0.04


@pytest.mark.optax
@pytest.mark.parametrize("parts", [["keys", "gpu"], pytest.param([], marks=pytest.mark.slow)])
def test_the_quick_run_writes_rows_as_json(parts, tmp_path):
    rows = bench.run(parts, quick=True)
    bench.save(tmp_path / "rows.json", rows, ["modellock-jax", "bench", "--quick"])
    found = json.loads((tmp_path / "rows.json").read_text())
    assert found["rows"] == rows
    assert {"command", "date", "machine", "versions"} < set(found)
    assert {row["part"] for row in rows} == set(parts or bench.PARTS)
    early, whole = (
        next(row for row in rows if row["name"] == f"one program, {way}")
        for way in ("early rejection", "all images")
    )
    assert 0 < early["flops_per_key"] < whole["flops_per_key"]
    assert early["target"] == 20
    assert whole["target"] == 1.5


@pytest.mark.optax
def test_without_torch_the_row_says_so(monkeypatch):
    monkeypatch.setattr(bench_training, "_torch", lambda images: None)
    monkeypatch.setattr(bench_training, "_fit", lambda images: lambda: None)
    names = ("8 runs in a row", "8 seeds in one vmap")
    call = {name: lambda: time.sleep(1e-4) for name in names}
    monkeypatch.setattr(bench_training, "_seeds", lambda images, steps: call)
    rows = {row["name"]: row for row in bench_training.measure(True)}
    assert rows["PyTorch"]["note"] == "torch is not installed"
    assert "met" not in rows["fit"]
    assert rows["8 seeds in one vmap"]["target"] == 2


def test_an_unknown_part_is_refused(tmp_path):
    bad(2, "the parts are ciphers, forwards", tmp_path, "bench", "--only", "cipher")
