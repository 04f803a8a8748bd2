"""Masks of composed locks, in a shape that shows which of them met a site."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

__all__ = ["Chained", "Mask", "Selected", "check_mask_applied"]

Mask = Callable[[Any, str, jax.Array], jax.Array]
"""`mask(key, site, h) -> h`."""


@dataclass(frozen=True)
class Selected:
    """The mask of `only`: `mask` at the sites that satisfy `where`, and nothing elsewhere."""

    mask: Mask
    where: Callable[[str], bool]

    def __call__(self, key: Any, site: str, h: jax.Array) -> jax.Array:
        """Mask the site, if it is one of those."""
        return self.mask(key, site, h) if self.where(site) else h


@dataclass(frozen=True)
class Chained:
    """The mask of `chain`: every lock's own, in order. `keys_of` checks the key and takes it apart.

    `masks` holds None for a lock without a mask.
    """

    masks: tuple[Mask | None, ...]
    keys_of: Callable[[Any], tuple[Any, ...]]

    def __call__(self, key: Any, site: str, h: jax.Array) -> jax.Array:
        """Mask the site by all masks in order."""
        for mask, k in zip(self.masks, self.keys_of(key)):
            h = h if mask is None else mask(k, site, h)
        return h


def check_mask_applied(mask: Mask, sites: Sequence[str]) -> None:
    """Refuse a trace in which a mask acted nowhere.

    Args:
        mask: A lock's `mask`.
        sites: The sites that the forward tapped.

    Raises:
        ValueError: That names the sites there are.
    """
    if not sites:
        raise ValueError(
            "the lock has a mask, but the forward never called `tap`, so the mask changes nothing: "
            'call h = tap("name", h) on each pre-activation, and hand `tap` on; from_linen and '
            "from_nnx do so for Flax's own layers, and for types of yours that their `layer_types` names"
        )
    if isinstance(mask, Chained):
        for inner in filter(None, mask.masks):
            check_mask_applied(inner, sites)
    if isinstance(mask, Selected):
        chosen = [site for site in sites if mask.where(site)]
        if not chosen:
            raise ValueError(
                "only: the lock has a mask, but no site satisfies `where`, so the mask changes "
                f"nothing; the sites are {', '.join(dict.fromkeys(sites))}"
            )
        check_mask_applied(mask.mask, chosen)
