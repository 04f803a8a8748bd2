"""Attacks that end with the key, or with one that opens the model as well."""
