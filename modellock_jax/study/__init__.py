"""The study: train, lock, attack and print what each lock is worth. Uses the public API only."""
