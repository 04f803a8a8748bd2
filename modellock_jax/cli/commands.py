"""All commands, one module for each kind of them."""

from modellock_jax.cli import (
    backup,
    inspecting,
    keys,
    locking,
    reading,
    recipients,
    research,
    sealing,
    users,
)
from modellock_jax.cli.app import app

__all__ = [
    "app",
    "backup",
    "inspecting",
    "keys",
    "locking",
    "reading",
    "recipients",
    "research",
    "sealing",
    "users",
]
