"""Changed files of every kind; `benchmarks/vault_mutants.py` tries many more."""

from pathlib import Path

import vault_mutants


def test_no_changed_file_of_any_kind_tells_something_else(tmp_path):
    rows = vault_mutants.measure(tmp_path, 300, [])
    assert len(rows) == 10
    for row in rows:
        assert row.keys() <= {"kind", "mutants", "refused", "the same", "cut at a line"}
        assert row["refused"] > row["mutants"] / 2
        assert row["kind"] == "register" or "cut at a line" not in row


def test_what_it_looks_for_would_be_seen(tmp_path):
    """A reader that believes everything, and one whose errors say nothing."""
    kind = vault_mutants.kinds(tmp_path)["revocation list"]

    def silent(_):
        raise ValueError("no")

    assert vault_mutants.end_of(kind._replace(read=Path.read_bytes), b"x", b"y") == "accepted"
    assert vault_mutants.end_of(kind._replace(read=silent), b"x", b"") == "refused, badly told"
