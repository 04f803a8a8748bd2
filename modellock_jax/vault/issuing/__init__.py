"""Copies for users: locked each under a key of its own, registered, revoked."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
