"""Dropout: its three rates, and a fresh seed for every place where it acts."""

from __future__ import annotations

from dataclasses import dataclass

_MASK = 0xFFFFFFFFFFFFFFFF


def mix(*values: int) -> int:
    """A well-mixed 64-bit seed from some integers (the splitmix64 finalizer, chained)."""
    z = 0
    for value in values:
        z = (z + value + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return z


@dataclass
class Dropout:
    """Rates of one forward pass; all zero (the default) switches dropout off.

    ``residual`` acts on embeddings and on what a sub-layer adds, ``attention`` on attention
    probabilities, ``activation`` inside the feed-forward layer.
    """

    residual: float = 0.0
    attention: float = 0.0
    activation: float = 0.0
    seed: int = 0
    n_drawn: int = 0

    def next_seed(self) -> int:
        """The seed of the next mask; the order of the calls is the order of the layers."""
        self.n_drawn += 1
        return mix(self.seed, self.n_drawn)
