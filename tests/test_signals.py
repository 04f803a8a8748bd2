"""Commands stopped at random moments leave nothing of the plaintext; the whole table is a benchmark."""

import json
import subprocess
import sys
from pathlib import Path


def test_ten_of_each_signal(tmp_path):
    program = Path(__file__).parents[1] / "benchmarks" / "vault_signals.py"
    options = [
        "--count",
        "10",
        "--size",
        "1000000",
        "--folder",
        tmp_path,
        "--json",
        tmp_path / "rows",
    ]
    ran = subprocess.run(
        [sys.executable, program, *options], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads((tmp_path / "rows").read_text())["rows"]
    for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"):
        assert sum(row["trials"] for row in rows if row["signal"] == name) == 10
    assert sum(row["stopped"] for row in rows) >= 10
    assert not any(row["faults"] for row in rows)
