"""What Marian, BART, mBART, M2M100 and Pegasus checkpoints of Hugging Face have in common.

All came to transformers by way of fairseq or in its form, so their configs have the same keys and
their tensors the same names.  A family's module says in a `Style` where it differs.  Old configs
have more keys (normalize_before, normalize_embedding, add_final_layer_norm, add_bias_logits,
static_position_embeddings, extra_pos_embeddings, ...), which change nothing: a family's model in
transformers has one form, and so have its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, StackConfig
from ..config_enums import NormPlace, Positions
from ..positions import TABLES
from ..records import record
from .assemble import assemble
from .checkpoint import Checkpoint
from .fields import ACTIVATIONS, Fields
from .packing import Linear, Packer
from .weights import Weights, open_weights

NORM_EPS = 1e-5  # PyTorch's default, which none of the families changes
MAX_POSITIONS_BYTES = 1 << 30

_Array = npt.NDArray[np.float32]


@record
class Style:
    """Where a family differs from the others."""

    family: str
    activation: str
    """Where config.json does not name one."""
    norm_place: NormPlace
    embed_norm: bool
    final_norm: bool
    positions: Positions
    output_bias: bool
    """The model has final_logits_bias."""
    scale_embedding: bool = False
    """Where config.json does not say."""
    ids: Mapping[str, int | None] = field(default_factory=dict)
    """Defaults of the family's config class, for ids that config.json does not name."""
    unused_rows: int = 0
    """Rows of a learned position table before that of the first position."""
    two_vocabularies: bool = False
    """share_encoder_decoder_embeddings and decoder_vocab_size have a meaning."""
    ignored: tuple[str, ...] = ()
    """Tensors of old files that the model computes itself."""


def load(path: Path, config: dict[str, Any], dtype: str, style: Style) -> Checkpoint:
    """Open a directory whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    model = _model_config(fields, style)
    weights = open_weights(path)
    tensors, learned = _pack(weights, model, fields, dtype, style)
    if learned:
        model = _with_learned_positions(model, learned)

    return assemble(fields, model, tensors, family=style.family, dtype=dtype, ids=style.ids)


def _model_config(fields: Fields, style: Style) -> ModelConfig:
    fields.refuse("is_encoder_decoder", True)
    fields.refuse("is_decoder", False)
    fields.refuse("quantization_config")
    d_model = fields.integer("d_model", 1, 1 << 20, alias="hidden_size")
    vocab_size = target_vocab_size = fields.integer("vocab_size", 1)
    if style.two_vocabularies:
        target_vocab_size = fields.integer("decoder_vocab_size", 1, default=vocab_size)
        shared = fields.boolean("share_encoder_decoder_embeddings", True)
        if shared and target_vocab_size != vocab_size:
            raise fields.error(
                "decoder_vocab_size",
                f"it must equal vocab_size ({vocab_size}) where share_encoder_decoder_embeddings "
                "is true",
            )
    activation = fields.choice("activation_function", ACTIVATIONS, style.activation)
    max_positions = fields.integer("max_position_embeddings", 1, default=1024)
    if max_positions * d_model * 4 > MAX_POSITIONS_BYTES:
        raise fields.error(
            "max_position_embeddings", f"a table of so many positions of {d_model} is absurd"
        )
    scale = math.sqrt(d_model) if fields.boolean("scale_embedding", style.scale_embedding) else 1.0

    def stack(side: str) -> StackConfig:
        n_heads = fields.integer(
            f"{side}_attention_heads",
            1,
            1 << 16,
            alias="num_attention_heads" if side == "encoder" else None,
        )
        if d_model % n_heads:
            raise fields.error(
                f"{side}_attention_heads", f"d_model = {d_model} is not a multiple of it"
            )
        return StackConfig(
            n_layers=fields.integer(
                f"{side}_layers",
                1,
                1 << 12,
                alias="num_hidden_layers" if side == "encoder" else None,
            ),
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_head=d_model // n_heads,
            d_ffn=fields.integer(f"{side}_ffn_dim", 1, 1 << 24),
            activation=activation,
            norm_place=style.norm_place,
            embed_norm=style.embed_norm,
            final_norm=style.final_norm,
            positions=style.positions,
            max_positions=max_positions,
            window=0,
            embed_scale=scale,
            attention_scale=float((d_model // n_heads) ** -0.5),
            norm_eps=NORM_EPS,
        )

    return ModelConfig(
        vocab_size=target_vocab_size,
        source_vocab_size=vocab_size,
        d_model=d_model,
        output_bias=style.output_bias,
        encoder=stack("encoder"),
        decoder=stack("decoder"),
    )


def _pack(
    weights: Weights, model: ModelConfig, fields: Fields, dtype: str, style: Style
) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """The packed tensors, and the stacks whose stored positions are not the computed ones."""
    d = model.d_model
    # A checkpoint of the model without its head has no "model." before its names.
    prefix = "model." if weights.has_prefix("model.") else ""

    def linear(name: str, n_out: int, n_in: int) -> Linear:
        return Linear(
            weights.get(f"{name}.weight", n_out, n_in), weights.get(f"{name}.bias", n_out)
        )

    def attention(name: str) -> tuple[Linear, Linear, Linear, Linear]:
        q, k, v, out = (linear(f"{name}.{part}_proj", d, d) for part in ("q", "k", "v", "out"))
        return q, k, v, out

    def norm(name: str) -> tuple[_Array, _Array]:
        return weights.get(f"{name}.weight", d), weights.get(f"{name}.bias", d)

    packer = Packer(dtype)
    _pack_embeddings(packer, weights, model, fields, prefix, style)
    learned = []
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        table, computed = _positions(weights, f"{prefix}{side}.embed_positions", stack, d, style)
        if not computed and stack.positions is not Positions.LEARNED:
            learned.append(side)
        packer.vector(f"{side}.positions", table)
        if stack.embed_norm:
            packer.norm(f"{side}.embed_norm", *norm(f"{prefix}{side}.layernorm_embedding"))
        for i in range(stack.n_layers):
            theirs, ours = f"{prefix}{side}.layers.{i}", f"{side}.{i}"
            packer.self_attention(f"{ours}.self_attn", stack, *attention(f"{theirs}.self_attn"))
            packer.norm(f"{ours}.self_attn.norm", *norm(f"{theirs}.self_attn_layer_norm"))
            if side == "decoder":
                packer.cross_attention(
                    f"{ours}.cross_attn", stack, *attention(f"{theirs}.encoder_attn")
                )
                packer.norm(f"{ours}.cross_attn.norm", *norm(f"{theirs}.encoder_attn_layer_norm"))
            packer.linear(f"{ours}.ffn.up", linear(f"{theirs}.fc1", stack.d_ffn, d))
            packer.linear(f"{ours}.ffn.down", linear(f"{theirs}.fc2", d, stack.d_ffn))
            packer.norm(f"{ours}.ffn.norm", *norm(f"{theirs}.final_layer_norm"))
        if stack.final_norm:
            packer.norm(f"{side}.final_norm", *norm(f"{prefix}{side}.layer_norm"))

    if style.output_bias:
        name, n = "final_logits_bias", model.vocab_size
        bias = weights.get(name, 1, n)[0] if name in weights else np.zeros(n, np.float32)
        packer.bias("output.bias", bias)
    weights.check_all_used([_HEAD, *(prefix + name for name in (*_EMBEDDINGS, *style.ignored))])
    return packer.tensors, learned


def _positions(
    weights: Weights, name: str, stack: StackConfig, d_model: int, style: Style
) -> tuple[_Array, bool]:
    """The position table of a stack, and whether it is the computed one."""
    n, stored = stack.max_positions, f"{name}.weight"
    if stack.positions is Positions.LEARNED:
        return weights.get(stored, n + style.unused_rows, d_model)[style.unused_rows :], False
    table = TABLES[stack.positions](n, d_model)
    if stored in weights:
        found = weights.get(stored, n, d_model)
        if not np.allclose(found, table, rtol=0, atol=1e-6):
            return found, False
    return table, True


_HEAD = "lm_head.weight"
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def _pack_embeddings(
    packer: Packer, weights: Weights, model: ModelConfig, fields: Fields, prefix: str, style: Style
) -> None:
    """The three uses of embeddings: encoder input, decoder input, output; each stored once.

    As in transformers, a tied use reads its own tensor where the file has it, and may differ.
    """
    shared, encoder, decoder = (prefix + name for name in _EMBEDDINGS)
    is_shared = not style.two_vocabularies or fields.boolean(
        "share_encoder_decoder_embeddings", True
    )
    sources = [encoder, shared] if is_shared else [encoder]
    targets = [decoder, shared] if is_shared else [decoder]
    outputs = [_HEAD]
    if fields.boolean("tie_word_embeddings", True):
        outputs += targets
        targets = [*targets, _HEAD]
        if is_shared:
            sources, targets, outputs = (
                [*sources, decoder, _HEAD],
                [*targets, encoder],
                [*outputs, encoder],
            )

    found: dict[str, _Array] = {}

    def find(names: list[str], n_tokens: int) -> _Array:
        usual = shared if shared in names else names[0]
        name = next((name for name in names if name in weights), usual)
        if name not in found:
            found[name] = weights.get(name, n_tokens, model.d_model)
        return found[name]

    source = find(sources, model.source_vocab_size)
    target = find(targets, model.vocab_size)
    output = find(outputs, model.vocab_size)

    packer.embeddings(source, target, output)


def _with_learned_positions(model: ModelConfig, sides: list[str]) -> ModelConfig:
    return replace(
        model,
        **{side: replace(getattr(model, side), positions=Positions.LEARNED) for side in sides},
    )
