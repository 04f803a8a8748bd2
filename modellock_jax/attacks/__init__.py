"""Attacks: what the attacker makes of a locked model without the key."""
