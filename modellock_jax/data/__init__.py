"""Data sets by name: those that packages ship, those that the system holds, and those of TFDS."""

from modellock_jax.data.images import Data, load

__all__ = ["Data", "load"]
