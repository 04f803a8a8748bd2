"""Attacks by inputs that are moved a little until the model errs."""
