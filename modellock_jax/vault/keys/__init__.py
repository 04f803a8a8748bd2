"""Secrets, the public keys that belong to them, and their backup in shares."""
