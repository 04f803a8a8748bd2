"""Sealed files and sets: encrypted and authenticated, for named recipients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
