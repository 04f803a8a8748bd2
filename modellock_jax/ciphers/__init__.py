"""Primitives in `jnp`, tested against published vectors: pure functions of uint32 words.

A word holds four bytes in little-endian order: the first byte of the stream is its lowest.
"""
