"""Sealed files and sets: encrypted and authenticated, for named recipients."""
