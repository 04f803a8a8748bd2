"""Locked files and sets: model files that still load, their tensors under one of the package's locks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
