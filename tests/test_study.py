"""The main job as its user runs it: the command line, its folder, its faults, its resumption."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from modellock_jax.cli.commands import app
from modellock_jax.models import MODELS
from modellock_jax.study import evasion, report, runner, training
from modellock_jax.study.config import Config
from modellock_jax.study.context import subject_of
from modellock_jax.study.main import STUDY
from modellock_jax.study.rows import check
from modellock_jax.study.store import Store, read, write
from modellock_jax.study.table import STUDIES

RESULTS = Path(__file__).parents[1] / "results"
pytestmark = pytest.mark.optax

TINY = Config(
    data="digits",
    model="mlp",
    locks=("sign_mask", "deep_lock", "adv_params(count=8)"),
    seeds=2,
    epochs=3,
    wrong_keys=3,
    budgets=(0.05, 0.1),
    thief_rates=(1e-3,),
    thief_steps=4,
    thief_scores=2,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    import jax

    with jax.numpy_dtype_promotion("standard"):
        return runner.run(STUDY, TINY, tmp_path_factory.mktemp("out"))


def test_every_row_is_there_and_holds_what_the_rules_ask(tiny):
    locks, thefts = tiny.rows.of("lock"), tiny.rows.of("thief")
    assert len(locks) == 3 * 2
    assert len(thefts) == (3 + 1) * 2 * 2
    for row in locks:
        assert len(row["wrong"]) == 3
        assert len(row["cross"]) == 2
        assert row["cross"][row["seed"]] == row["right"]
        assert 0 <= row["wrong_non_finite"] <= 1
    for row in locks:
        if row["scheme"] in ("deep_lock", "adv_params"):
            assert row["right_is_plain"]
            assert row["right"] == row["plain"]
        if row["scheme"] == "deep_lock":
            assert row["changed"] > 0.9 * row["parameters"]
            assert row["none_non_finite"] > 0.9
        if row["scheme"] == "adv_params":
            assert 0 < row["changed"] <= 8
        if row["scheme"] == "sign_mask":
            assert row["changed"] == 0
    assert {row["images"] for row in thefts} == {72, 144}


def test_started_again_it_computes_nothing(tiny, monkeypatch):
    rows = (tiny.folder / "rows.jsonl").read_bytes()
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(Store, "add", lambda *a: pytest.fail("computed a row again"))
    again = runner.run(STUDY, TINY, tiny.folder.parent)
    assert again.rows == tiny.rows
    assert (tiny.folder / "rows.jsonl").read_bytes() == rows


def test_an_interrupted_run_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    """Broken off after its first theft, it holds the rows so far, and ends with the same ones."""
    short = dataclasses.replace(TINY, locks=("deep_lock",))
    add = Store.add

    def break_off(self, row):
        if len(self.rows.of("thief")) == 1:
            raise KeyboardInterrupt
        add(self, row)

    monkeypatch.setattr(Store, "add", break_off)
    with pytest.raises(KeyboardInterrupt):
        runner.run(STUDY, short, tmp_path)
    monkeypatch.setattr(Store, "add", add)
    before = read(tmp_path / f"main-{short.id}")
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    after = runner.run(STUDY, short, tmp_path).rows
    assert len(before) == 3
    assert [after[name] for name in before] == list(before.values())

    def results(rows):
        return {i: {k: v for k, v in r.items() if not k.endswith("_s")} for i, r in rows.items()}

    expected = {i: r for i, r in tiny.rows.items() if r["lock"] in ("deep_lock", "scratch")}
    assert results(after) == results(expected)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    write(file, b"old")
    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, lambda *a: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                write(file, b"new")
        assert file.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_damaged_row_is_named(tiny, tmp_path):
    folder = tmp_path / tiny.folder.name
    write(folder / "rows.jsonl", (tiny.folder / "rows.jsonl").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"line 22 of .*rows.jsonl is not a row"):
        Store(folder, TINY, STUDY.kinds)
    write(folder / "config.json", b"{}")
    with pytest.raises(ValueError, match="holds another configuration"):
        Store(folder, TINY, STUDY.kinds)


def test_the_folder_is_named_by_the_configuration():
    assert TINY.id == Config(**{**TINY.__dict__}).id
    others = [Config(), Config(seeds=4), Config(data="digits"), TINY]
    assert len({config.id for config in others}) == 4


def test_the_command_prints_the_table_and_draws_the_pictures(tmp_path, monkeypatch):
    quick = {
        "seeds": 1, "epochs": 1, "wrong_keys": 2, "budgets": (0.1,), "thief_rates": (1e-3,),
        "thief_steps": 2, "thief_scores": 1,
    }  # fmt: skip
    monkeypatch.setitem(STUDIES, "main", STUDY._replace(quick=quick))
    options = ["study", "--data", "digits", "--model", "mlp", "--quick", "--out", str(tmp_path)]
    result = CliRunner().invoke(
        app, [*options, "--locks", "sign_flip(bits=32); sign_flip(bits=64)"]
    )
    assert result.exit_code == 0, result.output
    assert "Who opens what" in result.output
    assert "sign_flip(bits=64)" in result.output
    (folder,) = tmp_path.iterdir()
    table = (folder / "table.md").read_text()
    assert "| sign_flip(bits=32) |" in table
    assert "modellock-jax study --data=digits --model=mlp '--locks=sign_flip(bits=32); " in table
    assert str(tmp_path) not in table
    for name in ("hero", "thief", "wrong_keys"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / "figures" / f"{name}.svg").read_text()
        assert len((folder / "figures" / f"{name}.csv").read_text().splitlines()) > 2
    assert len(json.loads((folder / "config.json").read_text())["locks"]) == 2


FAULTS = {
    "unknown data set": (["--data", "mnist5000"], "mnist5000"),
    "unknown study": (
        ["leage"],
        f"there is no study 'leage'; the studies are {', '.join(STUDIES)}",
    ),
    "twice": (["--locks", "deep_lock; deep_lock"], "the lock 'deep_lock' is named twice"),
    "unknown model": (
        ["--model", "vgg"],
        "there is no model 'vgg'; the models are mlp, cnn, resnet",
    ),
    "unknown lock": (["--locks", "deeplock"], "there is no lock 'deeplock'; the locks are"),
    "unknown setting": (["--locks", "deep_lock(bits=3)"], "deep_lock has no setting 'bits'"),
    "bad setting": (["--locks", "deep_lock(key_bits=3)"], "key_bits must be 128 or 256, not 3"),
    "wrong type": (["--locks", "pixel_shuffle(block='a')"], "wrong type"),
    "unreadable": (["--locks", "deep_lock("], "cannot be read"),
    "block": (["--data", "digits", "--locks", "pixel_shuffle(block=3)"], "block 3 does not divide"),
    "no embedding": (["--model", "mlp", "--locks", "patch_shuffle(patch=5)"], "no leaf fits"),
    "seeds": (["--seeds", "-1"], "at least one seed"),
}


@pytest.mark.parametrize(("options", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_sentence_and_leaves_nothing(
    options, message, tmp_path, monkeypatch, capsys
):
    from modellock_jax import cli

    out = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["modellock-jax", "study", "--out", str(out), *options])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_the_installed_command_exits_with_2_and_no_traceback(tmp_path):
    command = [Path(sys.executable).with_name("modellock-jax"), "study", "--model", "vgg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: there is no model 'vgg'; the models are {', '.join(MODELS)}\n"
    assert os.listdir(tmp_path) == []


def test_the_interval_is_students():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=12)
    mean, low, high = report.interval(values)
    half = stats.t.ppf(0.975, 11) * values.std(ddof=1) / np.sqrt(12)
    np.testing.assert_allclose([mean, low, high], [values.mean(), mean - half, mean + half])
    assert report.interval([0.5]) == (0.5, 0.5, 0.5)


def test_blocks_follow_the_images():
    assert subject_of("pixel_shuffle", (32, 32, 3)).settings["block"] == 4
    assert subject_of("pixel_shuffle(block=8)", (32, 32, 3)).settings["block"] == 8
    assert subject_of("patch_shuffle", (28, 28, 1)).settings == {"patch": 7, "channels": 1}


@pytest.mark.parametrize("name", STUDIES)
def test_the_rows_in_results_are_of_their_kinds_and_make_their_tables(name):
    folders = sorted((RESULTS / name).iterdir())
    assert folders
    for folder in folders:
        rows, settings = read(folder), json.loads((folder / "config.json").read_text())
        for row in rows.values():
            check(row, STUDIES[name].kinds)
        config = STUDIES[name].config(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        )
        grids = STUDIES[name].grids(rows, config)
        assert all(grid.rows for grid in grids)
        assert (folder / "table.md").read_text().startswith("\n".join(map(report.markdown, grids)))


@pytest.mark.slow
def test_the_study_of_evasion(tmp_path):
    config = evasion.Config(
        data="digits", model="mlp", locks=("pixel_shuffle(block=4)",), seeds=1, epochs=1,
        eps=(0.1,), images=16, keys=2, steps=2, queries=5,
    )  # fmt: skip
    rows = runner.run(evasion.STUDY, config, tmp_path).rows
    assert len(rows.of("evasion")) == 4 + 14
    assert len(rows.of("flags")) == 2
    (grid,) = evasion.STUDY.grids(rows, config)
    assert len(grid.rows) == 3 + 8
    for row in rows.of("evasion"):
        assert 0 <= row["accuracy"][0] <= 1
    with pytest.raises(ValueError, match="the study evasion is of images with classes"):
        runner.run(
            evasion.STUDY,
            dataclasses.replace(config, data="story", model="decoder", locks=()),
            tmp_path,
        )
