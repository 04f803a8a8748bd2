"""Attacks by images that are moved a little until the model errs."""
