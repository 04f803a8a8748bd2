"""Copies for users: locked each under a key of its own, registered, revoked."""
