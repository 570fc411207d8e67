"""Batched greedy decoding (or sampling) with a KV cache, for validation and back-translation.

Only good enough to measure a model while it trains; the engine is what serves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from tools.train import ops as reference
from tools.train.data import concatenated, offsets_of, positions_of
from tools.train.expand import as_multi_head
from tools.train.layers.attention import Attention
from tools.train.layers.dropout import Dropout
from tools.train.layers.layer_norm import EPS, AddAndNorm
from tools.train.layers.parameter import Parameters
from tools.train.model import DecoderLayer, Model, parameter_shapes
from tools.train.ops import Array
from tools.train.vocabulary import EOS


def _attend(q: Array, keys: Array, values: Array, hidden: Array | None) -> Array:
    """``q[B, H, 1, dh]`` on ``[B, H, T, dh]``; ``hidden[B, 1, 1, T]`` marks padding keys."""
    scores = (q @ keys.transpose(0, 1, 3, 2)) * q.dtype.type(q.shape[-1] ** -0.5)
    if hidden is not None:
        scores = reference.xp.where(hidden, -reference.xp.inf, scores)
    scores = reference.xp.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    context = scores @ values
    return context.reshape(context.shape[0], -1)


class _LayerCache:
    """Keys and values of one decoder layer: of the source, and of the tokens so far."""

    def __init__(
        self, layer: DecoderLayer, memory: Array, index: Array, hidden: Array, n_steps: int
    ) -> None:
        self.layer, self.hidden = layer, hidden
        cross = layer.cross_attn
        self.cross = [
            reference._heads(
                cross.ops.linear(memory, p.weight.value, p.bias.value), index, cross.n_heads
            )
            for p in (cross.k_proj, cross.v_proj)
        ]
        b, h, _, dh = self.cross[0].shape
        self.own = [reference.xp.zeros((b, h, n_steps, dh), memory.dtype) for _ in range(2)]

    def keep(self, rows: Array) -> None:
        """Go on with these rows only."""
        self.cross = [array[rows] for array in self.cross]
        self.own = [array[rows] for array in self.own]
        self.hidden = self.hidden[rows]

    def step(self, x: Array, t: int) -> Array:
        """``x[B, d]`` at position ``t`` through the layer."""
        layer = self.layer
        attn = layer.self_attn
        for cache, projection in zip(self.own, (attn.k_proj, attn.v_proj), strict=True):
            cache[:, :, t] = _project(attn, projection, x)[:, :, 0]
        keys, values = (cache[:, :, : t + 1] for cache in self.own)
        context = _attend(_project(attn, attn.q_proj, x), keys, values, None)
        x = _norm(layer.self_attn_norm, _out(attn, context) + x)
        attn = layer.cross_attn
        keys, values = self.cross
        context = _attend(_project(attn, attn.q_proj, x), keys, values, self.hidden)
        x = _norm(layer.cross_attn_norm, _out(attn, context) + x)
        fed, _ = layer.feed_forward(x, Dropout())
        return _norm(layer.final_norm, fed + x)


def _project(attn: Attention, projection: object, x: Array) -> Array:
    y, _ = projection(x)  # type: ignore[operator]
    return y.reshape(x.shape[0], attn.n_heads, 1, -1)


def _out(attn: Attention, context: Array) -> Array:
    return attn.out_proj(reference.xp.ascontiguousarray(context))[0]


def _norm(add_and_norm: AddAndNorm, x: Array) -> Array:
    norm = add_and_norm.norm
    return norm.ops.layer_norm(x, norm.weight.value, norm.bias.value, EPS)[0]


def generate(
    model: Model,
    sources: Sequence[Sequence[int]],
    pad: int,
    batch_sentences: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """Target ids (without start and end) of each source; ``temperature`` 0 is greedy.

    A target ends at the end token or at twice its source's length plus 10.
    """
    if model.config.attention != "mha":  # it decodes as the multi-head model that it equals
        config, buffer = as_multi_head(model.config, model.parameters.buffer)
        model = Model(config, Parameters(parameter_shapes(config), buffer), model.ops)
    order = sorted(range(len(sources)), key=lambda i: (len(sources[i]), i))
    results: list[list[int]] = [[] for _ in sources]
    rng = numpy.random.default_rng(seed)
    weight = reference.xp.ascontiguousarray(model.output.table.value.T)
    for start in range(0, len(order), batch_sentences):
        chosen = order[start : start + batch_sentences]
        rows = _generate_batch(model, weight, [sources[i] for i in chosen], pad, temperature, rng)
        for i, row in zip(chosen, rows, strict=True):
            results[i] = row
    return results


def _generate_batch(
    model: Model,
    weight: Array,
    sources: Sequence[Sequence[int]],
    pad: int,
    temperature: float,
    rng: numpy.random.Generator,
) -> list[list[int]]:
    xp = reference.xp
    offsets = offsets_of(sources)
    ids, positions = xp.asarray(concatenated(sources)), xp.asarray(positions_of(offsets))
    memory, _ = model.encode(ids, positions, xp.asarray(offsets), Dropout())
    index, valid = reference._pad_index(xp.asarray(offsets))
    hidden = ~valid[:, None, None, :]
    limits = [min(model.config.max_positions, 2 * len(source) + 10) for source in sources]
    n_steps = max(limits)
    caches = [_LayerCache(layer, memory, index, hidden, n_steps) for layer in model.decoder_layers]
    embedding, bias = model.embedding, model.output.bias.value
    alive = numpy.arange(len(sources))
    ids = xp.full(len(sources), pad, dtype=xp.int32)
    rows: list[list[int]] = [[] for _ in sources]
    for t in range(n_steps):
        positions = xp.full(len(alive), t, dtype=xp.int32)
        x, _ = embedding(ids, positions, Dropout())
        for cache in caches:
            x = cache.step(x, t)
        logits = model.ops.linear(x, weight, bias)
        logits[:, pad] = -xp.inf
        if temperature > 0:
            noise = rng.gumbel(size=logits.shape).astype(numpy.float32)
            logits = logits / temperature + xp.asarray(noise)
        ids = logits.argmax(axis=1).astype(xp.int32)
        chosen = ids.tolist()
        for row, token in zip(alive, chosen, strict=True):
            if token != EOS:
                rows[row].append(token)
        going = numpy.array(
            [token != EOS and t + 1 < limits[i] for i, token in zip(alive, chosen, strict=True)]
        )
        if not going.any():
            break
        if not going.all():
            keep = numpy.flatnonzero(going)
            alive, ids = alive[keep], ids[xp.asarray(keep)]
            for cache in caches:
                cache.keep(xp.asarray(keep))
    return rows
