"""Secrets, the public keys that belong to them, and their backup in shares."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
