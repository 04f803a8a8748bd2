"""The study: train, lock, attack and print what each lock is worth. Uses the public API only."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
