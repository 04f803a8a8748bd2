"""The command line: `modellock-jax`. Nothing is imported before `main` can tell what went wrong."""

from modellock_jax.cli.run import main

__all__ = ["main"]
