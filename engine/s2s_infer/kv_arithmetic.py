"""What the KV cache holds: layers x positions x (keys + values) x width x bytes, added up once.

A decoder keeps the keys and values of every position that it has read.  Multi-head attention (MHA,
Vaswani et al., 2017) has keys and values for each head; multi-query attention (MQA, Shazeer, 2019)
one of each for all heads; grouped-query attention (GQA, Ainslie et al., 2023) one of each for a
group of heads; multi-head latent attention (MLA, DeepSeek-AI, "DeepSeek-V2", 2024) one latent
vector for both, of which each head's keys and values are made anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .config import ModelConfig, StackConfig

BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of a number by kv_dtype."""


def cache_numbers(n_layers: int, n_positions: int, d_keys: int, d_values: int) -> int:
    """Numbers in the cache of one sequence; d_keys, d_values: of one position in one layer."""
    return n_layers * n_positions * (d_keys + d_values)


@dataclass(frozen=True)
class AttentionCache:
    """What one kind of attention would keep for a model and a load."""

    kind: str
    """MHA, MQA, GQA or MLA."""
    what: str
    """What there is of keys and values, in words."""
    actual: bool
    """The model computes this kind."""
    d_keys: int
    """Numbers that are keys, for one position in one layer."""
    d_values: int
    self_numbers: int
    """Of self-attention: every position of every row (beam or sample)."""
    cross_numbers: int
    """Of cross-attention: every position of every source, which its beams share."""
    n_bytes: int
    """Of both."""

    @property
    def numbers_per_token(self) -> int:
        """Keys and values of one position in one layer."""
        return self.d_keys + self.d_values


def kv_caches(
    config: ModelConfig,
    *,
    batch: int = 1,
    beams: int = 1,
    length: int = 100,
    source_length: int | None = None,
    kv_dtype: str = "float32",
) -> list[AttentionCache]:
    """The cache of each kind of attention for a model's decoder, MHA first; [] without decoder.

    batch: sources at once.  beams: rows of each.  length: positions of each row.  source_length:
    positions of each source; None: as length.  Widths are those of the model, without the zeros
    that the engine adds to make each head a multiple of 16.
    """
    if not config.has_decoder:
        return []
    decoder = config.decoder
    n_positions = min(length, decoder.window) if decoder.window else length
    n_source = 0
    if config.has_encoder:
        n_source = length if source_length is None else source_length
    result = []
    for kind, what, actual, d_keys, d_values in _kinds(decoder):
        own = batch * beams * cache_numbers(decoder.n_layers, n_positions, d_keys, d_values)
        cross = batch * cache_numbers(decoder.n_layers, n_source, d_keys, d_values)
        n_bytes = (own + cross) * BYTES[kv_dtype]
        result.append(AttentionCache(kind, what, actual, d_keys, d_values, own, cross, n_bytes))
    return result


def kv_info(config: ModelConfig, *, kv_dtype: str, **load: int | None) -> dict[str, Any]:
    """`kv_caches` in plain JSON types, for `s2s-infer info --kv`."""
    caches = kv_caches(config, kv_dtype=kv_dtype, **load)  # type: ignore[arg-type]
    return {
        "n_layers": config.decoder.n_layers,
        "kv_dtype": kv_dtype,
        "bytes_per_number": BYTES[kv_dtype],
        **load,
        "kinds": [asdict(cache) for cache in caches],
    }


def _kinds(decoder: StackConfig) -> list[tuple[str, str, bool, int, int]]:
    """(kind, in words, whether it is the model's, keys, values) of one position in one layer."""
    n_heads, n_kv_heads, d_head = decoder.n_heads, decoder.n_kv_heads, decoder.d_head
    groups = n_kv_heads
    if n_kv_heads in (1, n_heads):  # a usual choice: a quarter of the heads
        groups = max(n for n in range(1, max(1, n_heads // 4) + 1) if n_heads % n == 0)
    counts = [("MHA", n_heads)]
    if 1 < groups < n_heads:
        counts.append(("GQA", groups))
    if n_heads > 1:
        counts.append(("MQA", 1))
    kinds = [
        (kind, f"{n} of {d_head}", n == n_kv_heads, n * d_head, n * d_head) for kind, n in counts
    ]
    # DeepSeek-V2's widths: a latent of four heads, and half a head of turned (rotary) key
    rank, d_rotary = 4 * d_head, d_head // 2
    kinds.append(("MLA", f"latent of {rank} + {d_rotary} rotary", False, rank + d_rotary, 0))
    return kinds
