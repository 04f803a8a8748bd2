"""Write a command of your own: a typer function in the group where it belongs.

python examples/command_of_your_own.py
"""

from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli.app import app


@app.command(rich_help_panel="Files")
def weigh(file: Annotated[Path, typer.Argument(help="A safetensors file.")]) -> None:
    """Say how many bytes the tensors of a file take."""
    from safetensors import safe_open

    with safe_open(file, "np") as tensors:
        sizes = [tensors.get_tensor(name).nbytes for name in tensors.keys()]  # noqa: SIM118
    typer.echo(f"{sum(sizes)} bytes in {len(sizes)} tensors")


def main():
    import tempfile

    import numpy as np
    from safetensors.numpy import save_file
    from typer.testing import CliRunner

    path = Path(tempfile.mkdtemp()) / "model.safetensors"
    save_file({"w": np.zeros(8, np.float32)}, path)
    said = CliRunner().invoke(app, ["weigh", str(path)]).output
    print(said, end="")
    return said


if __name__ == "__main__":
    main()
