"""What is said of installing, what is declared, and where the package runs."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Names of ours in an index are nobody's, or somebody else's.
OURS = r"modellock[-_.]?(jax)?([-_.]native)?"
ADVICE = re.compile(
    rf"\b(install|add|download|require|uvx|pipx run|uv run --with)\s[^.;:|]{{0,60}}\b{OURS}\b(?!/)"
    rf"|\b{OURS}(\[[a-z, ]+\]|\s*(==|>=|~=|<=?)\s*\d|\s+@\s)",
    re.IGNORECASE,
)


def texts():
    """Every text file that git keeps, or would, as it reads without its line breaks and escapes."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and name != "tests/test_packaging.py":
            data = (ROOT / name).read_bytes()
            if b"\0" not in data:
                yield name, re.sub(r"\\n|[\s\"'`\\,]+", " ", data.decode())


def test_nobody_is_told_to_install_our_names_from_an_index():
    found = {name: match.group() for name, text in texts() if (match := ADVICE.search(text))}
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "pip install modellock-jax",
        "%pip install -q modellock-jax[study]",
        "uv add modellock_jax_native",
        "uvx modellock-jax keygen",
        "install modellock-jax-native by itself",
        "all = [ modellock-jax[study test] ]",
        "modellock-jax>=0.1",
        "pip install modellock",
    ],
)
def test_such_advice_would_be_found(text):
    assert ADVICE.search(text)


def names(requirements):
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def test_the_extra_all_is_the_other_extras_and_no_name_of_ours():
    others = [extra for name, extra in EXTRAS.items() if name != "all"]
    assert sorted(EXTRAS["all"]) == sorted(one for extra in others for one in extra)
    everything = names(PROJECT["dependencies"]) | names(EXTRAS["all"])
    assert not [name for name in everything if "modellock" in name]


# Packages whose modules are called otherwise.
DISTRIBUTION = {"orbax": "orbax-checkpoint", "PIL": "pillow", "sklearn": "scikit-learn"}
# What somebody may have, which the code asks for by name; jax brings jaxlib, tfds brings requests.
OPTIONAL = {"keyring", "torch", "requests", "tensorflow", "modellock_jax_native"}


def imported(folder):
    """The top names of every module that the files of a folder import, in functions too."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0]


def test_every_package_that_is_imported_is_declared():
    foreign = set(imported(ROOT / "modellock_jax")) - sys.stdlib_module_names - OPTIONAL
    used = {canonicalize_name(DISTRIBUTION.get(name, name)) for name in foreign}
    assert used - {"modellock-jax"} <= names(PROJECT["dependencies"]) | names(
        EXTRAS["study"] + EXTRAS["cluster"] + EXTRAS["language"]
    )


def test_core_needs_no_more_than_is_declared():
    core = names(PROJECT["dependencies"])
    for part in ("vault", "locks", "ciphers", "attacks", "cli"):
        foreign = set(imported(ROOT / "modellock_jax" / part)) - sys.stdlib_module_names - OPTIONAL
        used = {canonicalize_name(DISTRIBUTION.get(name, name)) for name in foreign}
        assert used - {"modellock-jax", "shamir-mnemonic"} <= core, part


def test_bounds_in_messages_are_those_that_are_declared():
    declared = PROJECT["dependencies"] + EXTRAS["all"]
    for file in (ROOT / "modellock_jax").rglob("*.py"):
        found = re.findall(r"\b[a-z][\w-]*>=\d[\w.]*", file.read_text())
        assert not [one for one in found if one not in declared], file


def test_the_vault_says_that_it_needs_posix():
    code = "import os; os.name = 'nt'; import modellock_jax.vault.keys.secret"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ImportError: modellock_jax.vault needs a POSIX system" in ran.stderr.splitlines()[-1]
    assert "Operating System :: POSIX" in PROJECT["classifiers"]


def test_the_lock_names_one_public_host_and_every_hash():
    lock = tomllib.loads((ROOT / "pylock.toml").read_text())
    assert lock["lock-version"] == "1.0"
    archives = [
        archive
        for package in lock["packages"]
        for archive in [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
    ]
    assert {urlsplit(one["url"])[:2] for one in archives} == {("https", "files.pythonhosted.org")}
    assert all(re.fullmatch("[0-9a-f]{64}", one["hashes"]["sha256"]) for one in archives)
    assert not [package for package in lock["packages"] if {"index", "directory"} & set(package)]


def test_the_lock_holds_what_is_declared():
    lock = tomllib.loads((ROOT / "pylock.toml").read_text())
    held = {package["name"]: package["version"] for package in lock["packages"]}
    for one in map(Requirement, PROJECT["dependencies"] + EXTRAS["all"]):
        assert held[canonicalize_name(one.name)] in one.specifier, one


def test_hosted_ci_runs_what_the_metadata_claims_with_pinned_actions():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    claimed = [c.split(" :: ")[-1] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert f"python: {claimed}".replace("'", '"') in text
    assert PROJECT["requires-python"] == f">={claimed[0]}"
    text += (ROOT / ".github" / "workflows" / "full.yml").read_text()
    uses = re.findall(r"uses: (\S+)", text)
    assert uses
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in uses)
    for script in re.findall(r"run: bash (\S+)", text):
        assert (ROOT / script).is_file()
    lowest = re.search(r"tests=\((.*?)\)", (ROOT / ".ci" / "lowest").read_text(), re.DOTALL)[1]
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in lowest.split())
