"""The command line: `modellock-jax`, one module for each kind of command."""

from modellock_jax.cli import (
    backup,
    keys,
    locking,
    reading,
    recipients,
    research,
    sealing,
    users,
)
from modellock_jax.cli.app import app, main

__all__ = [
    "app",
    "backup",
    "keys",
    "locking",
    "main",
    "reading",
    "recipients",
    "research",
    "sealing",
    "users",
]
