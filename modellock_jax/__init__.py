"""modellock_jax: lock neural networks with secret keys, and measure what each lock is worth.

The public names are in `__init__.pyi`. Each is imported when it is first used: who only opens a file
need not wait for JAX.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
