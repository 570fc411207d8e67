"""The encoder-decoder Transformer, exactly as transformers' MarianMTModel computes it.

Post-norm layers, sinusoidal positions (sines, then cosines), one embedding table for source, target
and output. Parameters carry the names of the Hugging Face checkpoint; linear weights are stored
transposed (input-major). The decoder may have another kind of attention, which Marian has not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import numpy

from tools.train import ops as reference_ops
from tools.train.layers.attention import Attention
from tools.train.layers.dropout import Dropout
from tools.train.layers.embedding import Embedding, OutputProjection, sinusoidal_positions
from tools.train.layers.feed_forward import FeedForward
from tools.train.layers.layer_norm import AddAndNorm
from tools.train.layers.parameter import Parameters
from tools.train.ops import Array


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and choices of one model; everything needed to build it."""

    n_vocab: int
    d_model: int = 256
    d_ffn: int = 1024
    n_heads: int = 4
    n_encoder_layers: int = 6
    n_decoder_layers: int = 2
    activation: str = "relu"
    scale_embedding: bool = True
    max_positions: int = 512
    n_kv_heads: int = 0
    """Heads of keys and values in the decoder; 0: n_heads.  1 is multi-query attention."""
    kv_rank: int = 0
    """Width of the latent that keys and values of the decoder's self-attention are made of; 0: no
    latent."""

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or self.d_model % 2:
            raise ValueError(
                "d_model must be even and divisible by n_heads, "
                f"got {self.d_model} and {self.n_heads}"
            )
        if self.n_kv_heads and (self.n_kv_heads < 0 or self.n_heads % self.n_kv_heads):
            raise ValueError(
                f"n_kv_heads must divide n_heads = {self.n_heads}, but is {self.n_kv_heads}"
            )
        if self.kv_rank < 0 or (self.kv_rank and self.n_kv_heads not in (0, self.n_heads)):
            raise ValueError("kv_rank must be 0, or positive with keys and values for every head")
        if self.activation not in ("relu", "silu", "gelu"):
            raise ValueError(f"activation must be relu, silu or gelu, not {self.activation!r}")

    @property
    def attention(self) -> str:
        """The kind of the decoder's attention: mha, gqa, mqa or mla."""
        if self.kv_rank:
            return "mla"
        if self.n_kv_heads in (0, self.n_heads):
            return "mha"
        return "mqa" if self.n_kv_heads == 1 else "gqa"

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass
class Batch:
    """Packed sentence pairs. All arrays int32; ``offsets`` have one entry more than sentences.

    ``decoder_ids`` is ``target_ids`` shifted right by one (teacher forcing): at position t the
    decoder sees the tokens before t and has to predict token t.
    """

    source_ids: Array  # [Ns]
    source_positions: Array  # [Ns]
    source_offsets: Array  # [B + 1]
    decoder_ids: Array  # [Nt]
    target_ids: Array  # [Nt]
    target_positions: Array  # [Nt]
    target_offsets: Array  # [B + 1]


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter; matrices first, so that weight decay can end there."""
    d, f = config.d_model, config.d_ffn
    matrices: dict[str, tuple[int, ...]] = {"shared.weight": (config.n_vocab, d)}
    vectors: dict[str, tuple[int, ...]] = {}

    def linear(name: str, k: int, m: int) -> None:
        matrices[f"{name}.weight"] = (k, m)
        vectors[f"{name}.bias"] = (m,)

    def norm(name: str) -> None:
        vectors[f"{name}.weight"] = (d,)
        vectors[f"{name}.bias"] = (d,)

    def attention(name: str) -> None:
        d_kv, rank = d, 0
        if name.startswith("decoder."):  # the encoder keeps nothing from step to step
            d_kv = d // config.n_heads * (config.n_kv_heads or config.n_heads)
            rank = config.kv_rank if name.endswith(".self_attn") else 0
        linear(f"{name}.q_proj", d, d)
        if rank:
            linear(f"{name}.kv_down_proj", d, rank)
        linear(f"{name}.k_proj", rank or d, d_kv)
        linear(f"{name}.v_proj", rank or d, d_kv)
        linear(f"{name}.out_proj", d, d)
        norm(f"{name}_layer_norm")

    for side, n_layers in (
        ("encoder", config.n_encoder_layers),
        ("decoder", config.n_decoder_layers),
    ):
        for i in range(n_layers):
            layer = f"{side}.layers.{i}"
            attention(f"{layer}.self_attn")
            if side == "decoder":
                attention(f"{layer}.encoder_attn")
            linear(f"{layer}.fc1", d, f)
            linear(f"{layer}.fc2", f, d)
            norm(f"{layer}.final_layer_norm")
    vectors["final_logits_bias"] = (config.n_vocab,)
    return matrices | vectors


def initialize(config: ModelConfig, parameters: Parameters, seed: int, depth_scaled: bool) -> None:
    """Xavier-uniform matrices, embeddings with variance 1/d, unit norms, zero biases.

    ``depth_scaled`` divides layer l's range by sqrt(l), which keeps a deep post-norm stack
    trainable (Zhang et al. 2019, "Improving Deep Transformer with Depth-Scaled Initialization").
    """
    rng = numpy.random.default_rng(seed)
    for name, parameter in parameters.items():
        shape = parameter.value.shape
        if name == "shared.weight":
            value = rng.normal(0.0, config.d_model**-0.5, shape)
        elif len(shape) == 2:
            bound = math.sqrt(6 / (shape[0] + shape[1]))
            if depth_scaled:
                bound /= math.sqrt(int(name.split(".")[2]) + 1)
            value = rng.uniform(-bound, bound, shape)
        else:
            value = numpy.full(shape, 1.0 if name.endswith("layer_norm.weight") else 0.0)
        parameter.value[...] = reference_ops.xp.asarray(value, dtype=parameter.value.dtype)


class EncoderLayer:
    """Self-attention, then feed-forward, each with residual and norm."""

    def __init__(
        self, ops: SimpleNamespace, parameters: Parameters, name: str, config: ModelConfig
    ) -> None:
        self.self_attn = Attention(
            ops, parameters, f"{name}.self_attn", config.n_heads, causal=False
        )
        self.self_attn_norm = AddAndNorm(ops, parameters, f"{name}.self_attn_layer_norm")
        self.feed_forward = FeedForward(ops, parameters, name, config.activation)
        self.final_norm = AddAndNorm(ops, parameters, f"{name}.final_layer_norm")

    def __call__(
        self, x: Array, offsets: Array, dropout: Dropout
    ) -> tuple[Array, Callable[[Array], Array]]:
        """``x[N, d]`` to ``[N, d]``."""
        attended, attention_backward = self.self_attn(x, offsets, x, offsets, dropout)
        h, norm1_backward = self.self_attn_norm(attended, x, dropout)
        fed, feed_backward = self.feed_forward(h, dropout)
        y, norm2_backward = self.final_norm(fed, h, dropout)

        def backward(dy: Array) -> Array:
            dfed, dh = norm2_backward(dy)
            dh += feed_backward(dfed)
            dattended, dx = norm1_backward(dh)
            for part in attention_backward(dattended):
                dx += part
            return dx

        return y, backward


class DecoderLayer:
    """Causal self-attention, attention to the encoder's output, then feed-forward."""

    def __init__(
        self, ops: SimpleNamespace, parameters: Parameters, name: str, config: ModelConfig
    ) -> None:
        self.self_attn = Attention(
            ops,
            parameters,
            f"{name}.self_attn",
            config.n_heads,
            True,
            config.n_kv_heads,
            config.kv_rank,
        )
        self.self_attn_norm = AddAndNorm(ops, parameters, f"{name}.self_attn_layer_norm")
        self.cross_attn = Attention(
            ops, parameters, f"{name}.encoder_attn", config.n_heads, False, config.n_kv_heads
        )
        self.cross_attn_norm = AddAndNorm(ops, parameters, f"{name}.encoder_attn_layer_norm")
        self.feed_forward = FeedForward(ops, parameters, name, config.activation)
        self.final_norm = AddAndNorm(ops, parameters, f"{name}.final_layer_norm")

    def __call__(
        self, x: Array, offsets: Array, memory: Array, memory_offsets: Array, dropout: Dropout
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """``x[Nt, d]`` and ``memory[Ns, d]`` to ``[Nt, d]``; backward: gradients of both."""
        attended, self_backward = self.self_attn(x, offsets, x, offsets, dropout)
        h, norm1_backward = self.self_attn_norm(attended, x, dropout)
        crossed, cross_backward = self.cross_attn(h, offsets, memory, memory_offsets, dropout)
        g, norm2_backward = self.cross_attn_norm(crossed, h, dropout)
        fed, feed_backward = self.feed_forward(g, dropout)
        y, norm3_backward = self.final_norm(fed, g, dropout)

        def backward(dy: Array) -> tuple[Array, Array]:
            dfed, dg = norm3_backward(dy)
            dg += feed_backward(dfed)
            dcrossed, dh = norm2_backward(dg)
            dquery, dmemory = cross_backward(dcrossed)
            dh += dquery
            dattended, dx = norm1_backward(dh)
            for part in self_backward(dattended):
                dx += part
            return dx, dmemory

        return y, backward


class Model:
    """The whole network over one set of parameters (the weights in training, or their average)."""

    def __init__(self, config: ModelConfig, parameters: Parameters, ops: SimpleNamespace) -> None:
        self.config, self.parameters, self.ops = config, parameters, ops
        shared = parameters["shared.weight"]
        xp = reference_ops.xp
        table = xp.asarray(
            sinusoidal_positions(config.max_positions, config.d_model), dtype=shared.value.dtype
        )
        self.embedding = Embedding(ops, shared, table, config.scale_embedding)
        self.encoder_layers = [
            EncoderLayer(ops, parameters, f"encoder.layers.{i}", config)
            for i in range(config.n_encoder_layers)
        ]
        self.decoder_layers = [
            DecoderLayer(ops, parameters, f"decoder.layers.{i}", config)
            for i in range(config.n_decoder_layers)
        ]
        self.output = OutputProjection(ops, shared, parameters["final_logits_bias"])

    def encode(
        self, ids: Array, positions: Array, offsets: Array, dropout: Dropout
    ) -> tuple[Array, Callable[[Array], None]]:
        """Packed source ids ``[Ns]`` to the encoder's output ``[Ns, d]``."""
        x, embedding_backward = self.embedding(ids, positions, dropout)
        backwards = []
        for layer in self.encoder_layers:
            x, layer_backward = layer(x, offsets, dropout)
            backwards.append(layer_backward)

        def backward(dx: Array) -> None:
            for layer_backward in reversed(backwards):
                dx = layer_backward(dx)
            embedding_backward(dx)

        return x, backward

    def forward(
        self, batch: Batch, dropout: Dropout | None = None
    ) -> tuple[Array, Callable[[Array], None]]:
        """Logits ``[Nt, V]`` of all target positions; ``backward(dlogits)`` fills the gradients."""
        dropout = dropout or Dropout()
        memory, encoder_backward = self.encode(
            batch.source_ids, batch.source_positions, batch.source_offsets, dropout
        )
        x, embedding_backward = self.embedding(batch.decoder_ids, batch.target_positions, dropout)
        backwards = []
        for layer in self.decoder_layers:
            x, layer_backward = layer(
                x, batch.target_offsets, memory, batch.source_offsets, dropout
            )
            backwards.append(layer_backward)
        logits, output_backward = self.output(x)

        def backward(dlogits: Array) -> None:
            dx = output_backward(dlogits)
            dmemory = None
            for layer_backward in reversed(backwards):
                dx, part = layer_backward(dx)
                dmemory = part if dmemory is None else dmemory + part
            embedding_backward(dx)
            if dmemory is not None:
                encoder_backward(dmemory)

        return logits, backward
