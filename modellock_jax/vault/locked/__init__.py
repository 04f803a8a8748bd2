"""Locked files and sets: model files that still load, their tensors under one of the package's locks."""
