"""Run folders and engines that do not fit."""

import sys

import pytest
from helpers.toy_study import STUDY, Squares
from test_engine import SIX, squares

from modellock_jax.study import runner
from modellock_jax.study.store import Store


def test_a_folder_is_one_process_alone(tmp_path):
    folder = tmp_path / f"squares-{Squares().id}"
    with (
        Store(folder, Squares(), STUDY.kinds),
        pytest.raises(ConnectionError, match="another process"),
    ):
        runner.run(STUDY, Squares(), tmp_path)
    assert squares(runner.run(STUDY, Squares(), tmp_path)) == SIX


def test_a_row_that_is_not_of_its_kind_is_not_kept(tmp_path):
    with Store(tmp_path / "a", Squares(), STUDY.kinds) as store:
        good = {"id": "a", "kind": "square", "square": 1, "took_s": 0}
        for bad in ({"square": 1.5}, {"square": True}, {"more": 1}, {"kind": "circle"}):
            with pytest.raises(TypeError, match="row 'a' of kind"):
                store.add(good | bad)
        assert not store.rows
        store.add(good)


def test_faults_of_engines(tmp_path, monkeypatch):
    for workers, scheduler in ((-1, ""), (2, "tcp://127.0.0.1:1")):
        with pytest.raises(ValueError, match="a study runs here, or on --workers"):
            runner.run(STUDY, Squares(), tmp_path, workers=workers, scheduler=scheduler)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"from a clone, pip install -e"):
        runner.run(STUDY, Squares(), tmp_path, scheduler="tcp://127.0.0.1:1")
