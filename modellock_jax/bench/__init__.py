"""The bench: what locks cost, in ratios measured side by side. Uses the public API only."""
