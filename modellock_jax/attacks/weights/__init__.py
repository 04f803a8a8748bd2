"""Attacks that end with weights that work, or with what weights give away."""
