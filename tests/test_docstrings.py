"""Every function that users call says what it takes, gives and raises."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import public

ROOT = Path(__file__).parents[1]
FUNCTIONS, CLASSES = public.functions(), public.classes()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_says_what_it_takes_and_gives(name):
    assert not public.missing(FUNCTIONS[name])


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_names_what_it_is_made_of(name):
    assert not public.unnamed(CLASSES[name])


def test_the_walk_reaches_every_module_with_a_list():
    shown = {module.__name__ for module in public.modules()}
    for path in (ROOT / "modellock_jax").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        says = re.search(r"(?m)^__all__\b|^__getattr__, __dir__, __all__", path.read_text())
        assert (name in shown) == bool(says and ".cli" not in name), name
    assert {"modellock_jax.vault.keys.secret.Secret", "modellock_jax.tasks.task.Task"} <= {*CLASSES}


def test_the_site_reads_a_docstring_as_it_is_meant():
    """Napoleon takes what comes before a colon for a type; a letter and a dot begin a list."""
    for path in (ROOT / "modellock_jax").rglob("*.py"):
        text = path.read_text()
        typed = re.findall(r"^ *(?:Returns|Yields):\n(.*(?<!:):(?!:).*)", text, re.MULTILINE)
        listed = re.findall(r"^ *\w+: \w\.$", text, re.MULTILINE)
        assert (typed, listed) == ([], []), path


def test_what_is_missing_is_found():
    def bare(x: int) -> int:
        """Give it back."""

    def half(x: int, *rest: int) -> None:
        """Take two.

        Args:
            x: The one.
        """

    def lax(x: int) -> None:
        """Refuse it.

        Args:
            x: The one.
        """
        if x:
            raise ValueError("no")

    def full(x: int, y: int) -> int:
        """Add.

        Args:
            x: The one.
            y: The other.

        Returns:
            Their sum.
        """

    assert public.missing(bare) == ["Args: x", "Returns"]
    assert public.missing(half) == ["Args: rest"]
    assert public.missing(lax) == ["Raises: ValueError"]
    assert public.missing(full) == []

    class Made(NamedTuple):
        """A thing of `one`, or two."""

        one: int
        two: int

    assert public.unnamed(Made) == ["two"]


def test_errors_lie_in_a_section_of_their_own():
    for name, function in FUNCTIONS.items():
        document = " ".join((inspect.getdoc(function) or "").split())
        assert not re.search(r"[.;] [Rr]aises (as )?`", document), name


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("core/over_keys.py", r"\*keys"),
        ("attacks/attack.py", "rng"),
        ("study/runner.py", "config"),
        ("vault/sealed/envelope.py", "serial"),
        ("vault/issuing/register.py", "user"),
    ],
)
def test_ruff_refuses_a_section_that_lacks_an_argument(file, entry):
    path = ROOT / "modellock_jax" / file
    shorter, count = re.subn(rf"(?m)^ +{entry}: .*\.\n", "", path.read_text(), count=1)
    assert count == 1
    ran = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", path, "-"],
        cwd=ROOT, input=shorter, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "Missing argument description" in ran.stdout
