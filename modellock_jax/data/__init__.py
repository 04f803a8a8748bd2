"""Data sets by name: our own, those that packages ship, those that the system holds, those of TFDS."""

from modellock_jax.data.data import Data
from modellock_jax.data.loading import load

__all__ = ["Data", "load"]
