"""The core: locks as five functions, how they compose, and what they act on: paths, bits, parts."""
