"""What others wrote reaches a terminal only as text that it shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellock_jax._printing import printable

HOSTILE = {
    "a title": "\x1b]0;owned\x07",
    "a colour": "\x1b[31mred",
    "C1": "\x9b31m",
    "delete": "a\x7f",
    "another line": "fine\nerror: none",
    "a return": "fine\rover it",
    "a line separator": "a\u2028b\u2029c\x85d",
    "right to left": "exe\u202egnp",
    "isolates": "a\u2066b\u2069",
    "no width": "a\u200bb\ufeffc\u00ad",
    "blank letters": "a\u3164\u115f\u2800\uffa0b",
    "variation": "a\ufe0fb\U000e0100",
    "tags": "a\U000e0041",
    "a lone surrogate": "a\udc1bb\ud800",
    "strange spaces": "a\xa0b\u3000c",
    "a mark first": "\u0301a",
    "a pile of marks": "a" + "\u0301" * 60,
    "private": "\ue000\U0010ffff",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_would_obey_or_hide_is_escaped(text):
    shown = printable(text)
    assert "\\" in shown
    assert shown.isprintable()
    assert all(sign in shown for sign in text if sign.isascii() and sign.isprintable())


@given(st.text(st.characters(exclude_categories=[]), max_size=50))
def test_always_one_line_that_utf8_takes(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.splitlines() in ([shown], [])
    shown.encode()
    assert printable(shown) == shown  # again changes nothing


@pytest.mark.parametrize(
    "text", ["", "plain", "überall", "模型/重み", "שלום", "a b", "C:\\x", "é", "ไม่"]
)
def test_readable_text_stays(text):
    assert printable(text) == text


def test_long_text_is_cut_and_says_so():
    assert printable("x" * 5000, 10) == "xxxxxxxxxx... (5000 characters)"
    assert len(printable("\x1b" * 10**6)) < 2000
    assert printable(OSError("a\nb")) == "a\\nb"
