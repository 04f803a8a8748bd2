"""The notebook runs from top to bottom, its figures hold, and its stored outputs are clean."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_lock_a_model.ipynb"


def outputs(notebook: Any, kind: str) -> list[Any]:
    """Every output of one kind, in order."""
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [out for cell in code for out in cell.outputs if out.output_type == kind]


def numbers(notebook: Any) -> dict[str, float]:
    """The JSON line that the last cell prints."""
    return json.loads(outputs(notebook, "stream")[-1].text)


def check(found: dict[str, float]) -> None:
    """What must hold of any run: the key opens, and no other way of reading the file does."""
    assert found["user"] == found["owner"] > 0.9
    assert found["same_logits"] == 1
    assert found["shuffle_right"] > 0.9
    assert found["sign_right"] == found["owner"]
    for closed in ("no_key", "no_key_healed", "wrong_key", "sign_no_key", "sign_wrong_mean"):
        assert found[closed] < 0.35, closed
    # Shuffling keeps the ink of each block: more than guessing, much less than the key gives.
    assert found["shuffle_wrong_mean"] < 0.6
    # One flipped bit is all or nothing for a byte cipher, and next to nothing for signs.
    assert found["deep_one_bit"] < 0.35 < 0.8 < found["sign_one_bit"]


EXECUTE = """
import sys, nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient

manager = KernelManager()  # of this interpreter, whatever kernels are installed
launcher = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
manager.kernel_spec.argv = launcher
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, km=manager, timeout=300).execute()
nbformat.write(notebook, "out.ipynb")
"""


@pytest.mark.slow
def test_a_quick_run_opens_with_the_key_alone(tmp_path: Path) -> None:
    # In a process of its own: the client leaves sockets for the garbage collector to warn of.
    quick = os.environ | {"MODELLOCK_QUICK": "1"}
    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, env=quick, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert not outputs(notebook, "error")
    found = numbers(notebook)
    assert found["quick"] == 1
    check(found)


def test_the_committed_outputs_are_whole_and_clean() -> None:
    text = NOTEBOOK.read_text()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < 1_000_000
    assert not outputs(notebook, "error")
    assert all(out.name == "stdout" for out in outputs(notebook, "stream"))
    assert sum("image/png" in out.data for out in outputs(notebook, "display_data")) == 5
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|usr|opt|mnt|Users)/|[A-Z]:\\\\", text)
    found = numbers(notebook)
    assert found["quick"] == 0
    check(found)
