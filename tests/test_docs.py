"""README and site: tables are as their rows say, links lead somewhere, README is short."""

import json
import pkgutil
import pydoc
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import modellock_jax
from modellock_jax.locks import SCHEMES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


EACH = """
import contextlib, io, json, runpy, sys

def run(arguments):
    sys.argv[1:], printed = arguments, io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(folder, run_name="__main__")
        except SystemExit as end:
            return end.code, printed.getvalue()

folder = sys.argv[1]
print(json.dumps([run(arguments) for arguments in json.loads(sys.argv[2])]))
"""


def tables(root, *runs):
    """The exit code and what is printed of each run, by its arguments; in one process, one by one."""
    command = [sys.executable, "-c", EACH, str(root / "docs" / "tables"), json.dumps(runs)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_every_table_is_as_its_rows_say():
    assert tables(ROOT, ["--check"]) == [[0, "every table is as its rows say\n"]]


def test_another_row_is_another_table(tmp_path):
    for name in ("docs", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_build"))
    shutil.copy(ROOT / "README.md", tmp_path)
    changes = {"*.jsonl": (r"\b0\.([1-9])", r"0.0\1"), "*/*.json": (r'": (\d)', r'": 4\1')}
    for files, (found, instead) in changes.items():
        for path in (tmp_path / "results").rglob(files):
            if path.name != "config.json":
                text = path.read_text()
                changed = re.sub(found, instead, text)
                assert changed != text
                path.write_text(changed)
    (code, printed), *after = tables(tmp_path, ["--check"], [], ["--check"])
    differ = {line.partition(": ")[2] for line in printed.splitlines()}
    assert code == 1
    assert differ == made_of_rows()
    assert "README.md: matrix locks" in printed
    assert [code for code, _ in after] == [0, 0]


def made_of_rows():
    texts = [page.read_text() for page in PAGES]
    found = {name for text in texts for name in re.findall(r"<!-- table: ([\w -]+) -->", text)}
    return found - {"locks", "attacks", "kinds of rows", "studies"}


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in slugs, f"{page.name}: {target}"


def test_every_lock_has_its_game():
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "games.md").read_text(), re.MULTILINE)
    named = [name for heading in headings for name in re.findall(r"`(\w+)`", heading)]
    ours = [
        name for name, scheme in SCHEMES.items() if "modellock_jax" in scheme.factory.__module__
    ]
    assert sorted(named) == sorted(ours)


def code(text):
    """The lines of every fenced block."""
    return "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_fits_its_box(page):
    assert [line for line in code(page.read_text()) if len(line) > 90] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_exists(page):
    tops = {"ml", "modellock_jax", *(m.name for m in pkgutil.iter_modules(modellock_jax.__path__))}
    for name in re.findall(rf"`((?:{'|'.join(tops)})(?:\.[^\W\d]\w*)+)", page.read_text()):
        path = re.sub(r"^(ml|modellock_jax)\.", "", name)
        assert pydoc.locate(f"modellock_jax.{path}") is not None, f"{page.name}: {name}"


def test_every_page_is_on_the_site():
    listed = set(
        re.findall(r"^([\w/.-]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    )
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= listed
