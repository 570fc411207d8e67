"""What the KV cache holds: layers x positions x (keys + values) x width x bytes, added up once.

A decoder keeps the keys and values of every position that it has read.  Multi-head attention (MHA,
Vaswani et al., 2017) has keys and values for each head; multi-query attention (MQA, Shazeer, 2019)
one of each for all heads; grouped-query attention (GQA, Ainslie et al., 2023) one of each for a
group of heads; multi-head latent attention (MLA, DeepSeek-AI, "DeepSeek-V2", 2024) one latent
vector for both, of which each head's keys and values are made anew.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .config import ModelConfig, StackConfig
from .records import record

BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of a number by kv_dtype."""


def cache_numbers(n_layers: int, n_positions: int, d_keys: int, d_values: int) -> int:
    """Numbers in the cache of one sequence; d_keys, d_values: of one position in one layer."""
    return n_layers * n_positions * (d_keys + d_values)


@record
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
    n_full = len(decoder.full_layers) if decoder.window else decoder.n_layers
    n_seen = min(length, decoder.window)
    n_source = 0
    if config.has_encoder:
        n_source = length if source_length is None else source_length
    result = []
    for kind, what, actual, d_keys, d_values in _kinds(decoder):
        own = batch * beams * cache_numbers(n_full, length, d_keys, d_values)
        if decoder.window:  # other layers see only the last positions
            n_others = decoder.n_layers - n_full
            own += batch * beams * cache_numbers(n_others, n_seen, d_keys, d_values)
        d_cross = (d_keys, d_values)
        if actual and decoder.kv_rank:  # cross-attention beside latent attention has no latent
            d_cross = (decoder.n_kv_heads * decoder.d_head, decoder.n_kv_heads * decoder.d_head)
        cross = batch * cache_numbers(decoder.n_layers, n_source, *d_cross)
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
    d_key, d_value = d_head, d_head
    # DeepSeek-V2's widths: a latent of four heads, and half a head of turned (rotary) key
    rank, d_rotary = 4 * d_head, d_head // 2
    if decoder.kv_rank:
        rank, d_rotary = decoder.kv_rank, decoder.d_rotary
        d_key, d_value = d_head + d_rotary, decoder.d_value
    groups = n_kv_heads
    if decoder.kv_rank or n_kv_heads in (1, n_heads):  # a usual choice: a quarter of the heads
        groups = max(n for n in range(1, max(1, n_heads // 4) + 1) if n_heads % n == 0)
    counts = [("MHA", n_heads)]
    if 1 < groups < n_heads:
        counts.append(("GQA", groups))
    if n_heads > 1:
        counts.append(("MQA", 1))
    widths = f"{d_key}" if d_key == d_value else f"{d_key} and {d_value}"
    kinds = [
        (kind, f"{n} of {widths}", not decoder.kv_rank and n == n_kv_heads, n * d_key, n * d_value)
        for kind, n in counts
    ]
    is_latent = decoder.kv_rank > 0
    kinds.append(("MLA", f"latent of {rank} + {d_rotary} rotary", is_latent, rank + d_rotary, 0))
    return kinds
