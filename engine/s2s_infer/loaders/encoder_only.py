"""What BERT, RoBERTa and DistilBERT checkpoints of Hugging Face have in common.

Post-norm layers, learned positions, a norm on the embeddings, and for some classes a head: a
pooler, a masked language model whose last weight is the embedding, a classifier.  A family's module
says in a `Style` what its config keys and tensors are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import HeadLayer, ModelConfig, StackConfig
from ..config_enums import Activation, LabelScores, NormPlace, Positions
from ..records import record
from ..special_tokens import SpecialTokens
from ..tokenizer import Tokenizer
from ..tokenizer_config import read_tokenizer_config
from ..tokenizer_files import open_tokenizer
from .assemble import assemble_encoder
from .checkpoint import Checkpoint
from .fairseq import MAX_POSITIONS_BYTES
from .fields import ACTIVATIONS, Fields
from .packing import Linear, Packer
from .weights import Weights, open_weights

_Array = npt.NDArray[np.float32]


@record
class Dense:
    """A layer of a head before its last one; all are [d_model, d_model]."""

    name: str
    activation: Activation | None
    """None: that of the feed-forward blocks."""
    norm: str | None = None


@record
class HeadStyle:
    """What a head's tensors are called."""

    hidden: Dense | None
    last: str
    bias: tuple[str, ...] = ()
    """Other names of the last layer's bias."""


@record
class Style:
    """Where a family differs from the others."""

    family: str
    prefix: str
    """Before the names of the encoder's tensors in a checkpoint with a head."""
    classes: Mapping[str, tuple[str, ...]]
    """Architecture -> heads; of a pooler only if the file has it."""
    keys: Mapping[str, str]
    """d_model, n_layers, n_heads, d_ffn, activation -> keys of config.json."""
    layer: str
    """Before the names of a layer's tensors; {} is its number."""
    tensors: Mapping[str, str]
    """q, k, v, out, attention_norm, up, down, ffn_norm -> names in a layer."""
    masked_lm: HeadStyle
    classifier: HeadStyle
    n_token_types: int | None
    """Where config.json does not say; None: the family has none."""
    mask: str
    """The mask token where tokenizer_config.json does not name it."""
    norm_eps: str | None
    """Key of config.json; None: 1e-12."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """d_model, n_layers, n_heads -> other names of their keys."""
    positions_after_padding: bool = False
    """The position table begins with pad_token_id + 1 unused rows."""


def load(path: Path, config: dict[str, Any], dtype: str, style: Style) -> Checkpoint:
    """Open a directory whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    heads = _heads(fields, style)
    weights = open_weights(path)
    prefix = style.prefix if weights.has_prefix(style.prefix) else ""
    if f"{prefix}pooler.dense.weight" not in weights and "classifier" not in heads:
        heads = tuple(head for head in heads if head != "pooler")
    model = _model_config(fields, style, heads)
    tensors = _pack(weights, model, fields, dtype, style, prefix)

    tokenizer, missing = open_tokenizer(path, style.family)
    special_tokens = SpecialTokens(padding=fields.integer("pad_token_id", 0, default=None))
    if tokenizer is not None:
        tokenizer.check_vocabulary(model.source_vocab_size, model.vocab_size)
        special_tokens = _special_tokens(tokenizer, special_tokens.padding, path, style)
    return assemble_encoder(
        model, tensors, special_tokens, tokenizer, missing, style.family, dtype, path
    )


def _special_tokens(
    tokenizer: Tokenizer, padding: int | None, path: Path, style: Style
) -> SpecialTokens:
    around = tokenizer.encode_source("")  # the tokens before and after a text
    mask = read_tokenizer_config(path).roles.get("mask_token")
    return SpecialTokens(
        padding=padding,
        unknown=tokenizer.unknown_id,
        mask=tokenizer.token_id(style.mask if mask is None else mask.content),
        classification=around[0] if len(around) > 1 else None,
        separation=around[-1] if len(around) > 1 else None,
    )


def _heads(fields: Fields, style: Style) -> tuple[str, ...]:
    """The heads of the class that config.json names."""
    names = fields.raw("architectures")
    return style.classes[names[0]] if names else ("pooler",)


def _model_config(fields: Fields, style: Style, heads: tuple[str, ...]) -> ModelConfig:
    fields.refuse("is_decoder", False)
    fields.refuse("is_encoder_decoder", False)
    fields.refuse("add_cross_attention", False)
    fields.refuse("quantization_config")
    fields.refuse("position_embedding_type", "absolute")
    keys = style.keys
    aliases = style.aliases
    d_model = fields.integer(keys["d_model"], 1, 1 << 16, alias=aliases.get("d_model"))
    n_heads = fields.integer(keys["n_heads"], 1, 1 << 10, alias=aliases.get("n_heads"))
    if d_model % n_heads:
        raise fields.error(
            keys["n_heads"], f"{keys['d_model']} = {d_model} is not a multiple of it"
        )
    max_positions = fields.integer("max_position_embeddings", 1, default=512) - _unused(
        fields, style
    )
    if max_positions < 1:
        raise fields.error("max_position_embeddings", "that leaves no position for a token")
    if max_positions * d_model * 4 > MAX_POSITIONS_BYTES:
        raise fields.error(
            "max_position_embeddings", f"a table of so many positions of {d_model} is absurd"
        )
    activation = Activation(fields.choice(keys["activation"], ACTIVATIONS, "gelu"))
    eps = 1e-12
    if style.norm_eps is not None:
        eps = fields.number(style.norm_eps, default=1e-12)
    n_types = 0
    if style.n_token_types is not None:
        n_types = fields.integer("type_vocab_size", 1, 1 << 16, default=style.n_token_types)
    encoder = StackConfig(
        n_layers=fields.integer(keys["n_layers"], 1, 1 << 8, alias=aliases.get("n_layers")),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=d_model // n_heads,
        d_ffn=fields.integer(keys["d_ffn"], 1, 1 << 20),
        activation=activation,
        norm_place=NormPlace.POST,
        embed_norm=True,
        final_norm=False,
        positions=Positions.LEARNED,
        max_positions=max_positions,
        window=0,
        embed_scale=1.0,
        attention_scale=float((d_model // n_heads) ** -0.5),
        norm_eps=eps,
        n_token_types=n_types,
    )
    vocab_size = fields.integer("vocab_size", 1)
    labels = _labels(fields) if "classifier" in heads else ()
    widths = {"masked_lm": vocab_size, "classifier": len(labels)}

    def layers(head: str) -> tuple[HeadLayer, ...]:
        if head == "pooler":
            return (HeadLayer(d_model, Activation.TANH, False),)
        hidden: Dense | None = getattr(style, head).hidden
        result = [HeadLayer(widths[head], Activation.IDENTITY, False)]
        if hidden is not None:
            result.insert(
                0, HeadLayer(d_model, hidden.activation or activation, hidden.norm is not None)
            )
        return tuple(result)

    return ModelConfig(
        vocab_size=vocab_size,
        source_vocab_size=vocab_size,
        d_model=d_model,
        output_bias=False,
        encoder=encoder,
        decoder=StackConfig.absent(),
        heads={head: layers(head) for head in heads},
        labels=labels,
        label_scores=_label_scores(fields, len(labels)),
    )


def _unused(fields: Fields, style: Style) -> int:
    """Rows of the position table before that of the first position."""
    if not style.positions_after_padding:
        return 0
    padding: int = fields.integer("pad_token_id", 0, default=1)
    return padding + 1


def _labels(fields: Fields) -> tuple[str, ...]:
    """The classifier's labels, as transformers names them where config.json does not."""
    names = fields.raw("id2label")
    if names is None:
        n_labels = fields.integer("num_labels", 1, 1 << 20, default=2)
        return tuple(f"LABEL_{i}" for i in range(n_labels))
    expected = "it must name a label for each of 0, 1, ..."
    if not isinstance(names, dict) or not names or len(names) > 1 << 20:
        raise fields.error("id2label", expected)
    labels = [names.get(str(i)) for i in range(len(names))]
    if not all(isinstance(label, str) for label in labels):
        raise fields.error("id2label", expected)
    return tuple(str(label) for label in labels)


def _label_scores(fields: Fields, n_labels: int) -> LabelScores:
    kinds = {
        "single_label_classification": LabelScores.SOFTMAX,
        "multi_label_classification": LabelScores.SIGMOID,
        "regression": LabelScores.IDENTITY,
    }
    usual = "multi_label_classification" if n_labels == 1 else "single_label_classification"
    kind: LabelScores = fields.choice("problem_type", kinds, usual)
    if kind is LabelScores.SOFTMAX and n_labels == 1:
        return LabelScores.SIGMOID
    return kind


def _pack(
    weights: Weights, model: ModelConfig, fields: Fields, dtype: str, style: Style, prefix: str
) -> dict[str, npt.NDArray[Any]]:
    d, stack = model.d_model, model.encoder

    def linear(name: str, n_out: int, n_in: int) -> Linear:
        return Linear(
            weights.get(f"{name}.weight", n_out, n_in), weights.get(f"{name}.bias", n_out)
        )

    def norm(name: str) -> tuple[_Array, _Array]:
        # gamma, beta: as the first checkpoints, which came from TensorFlow, call them
        names = ("gamma", "beta") if f"{name}.gamma" in weights else ("weight", "bias")
        return weights.get(f"{name}.{names[0]}", d), weights.get(f"{name}.{names[1]}", d)

    packer = Packer(dtype)
    embeddings = f"{prefix}embeddings"
    words = weights.get(f"{embeddings}.word_embeddings.weight", model.vocab_size, d)
    packer.matrix("shared.embed", words)
    n_unused = _unused(fields, style)
    positions = weights.get(
        f"{embeddings}.position_embeddings.weight", stack.max_positions + n_unused, d
    )
    packer.vector("encoder.positions", positions[n_unused:])
    if stack.n_token_types:
        types = weights.get(f"{embeddings}.token_type_embeddings.weight", stack.n_token_types, d)
        packer.vector("encoder.token_types", types)
    packer.norm("encoder.embed_norm", *norm(f"{embeddings}.LayerNorm"))
    for i in range(stack.n_layers):
        ours = f"encoder.{i}"
        theirs = {
            part: f"{prefix}{style.layer.format(i)}.{name}" for part, name in style.tensors.items()
        }
        attention = [linear(theirs[part], d, d) for part in ("q", "k", "v", "out")]
        packer.self_attention(f"{ours}.self_attn", stack, *attention)
        packer.norm(f"{ours}.self_attn.norm", *norm(theirs["attention_norm"]))
        packer.linear(f"{ours}.ffn.up", linear(theirs["up"], stack.d_ffn, d))
        packer.linear(f"{ours}.ffn.down", linear(theirs["down"], d, stack.d_ffn))
        packer.norm(f"{ours}.ffn.norm", *norm(theirs["ffn_norm"]))

    if "pooler" in model.heads:
        packer.linear("pooler.0", linear(f"{prefix}pooler.dense", d, d))
    for head in ("masked_lm", "classifier"):
        if head not in model.heads:
            continue
        names: HeadStyle = getattr(style, head)
        n = len(model.heads[head]) - 1
        if names.hidden is not None:
            packer.linear(f"{head}.0", linear(names.hidden.name, d, d))
            if names.hidden.norm is not None:
                packer.norm(f"{head}.0.norm", *norm(names.hidden.norm))
        n_out = model.heads[head][-1].n_out
        last, bias = f"{names.last}.weight", f"{names.last}.bias"
        bias = next((name for name in (bias, *names.bias) if name in weights), bias)
        packer.bias(f"{head}.{n}.bias", weights.get(bias, n_out))
        is_tied = head == "masked_lm" and fields.boolean("tie_word_embeddings", True)
        if last in weights or not is_tied:
            weight = weights.get(last, n_out, d)
            if head != "masked_lm" or not np.array_equal(weight, words):
                packer.matrix(f"{head}.{n}.weight", weight)
    weights.check_all_used(
        [
            # buffers, and what the class leaves out: transformers passes over them too
            f"{embeddings}.position_ids",
            f"{embeddings}.token_type_ids",
            f"{prefix}pooler.dense.weight",
            f"{prefix}pooler.dense.bias",
            "cls.seq_relationship.weight",
            "cls.seq_relationship.bias",
            *style.masked_lm.bias,
            f"{style.masked_lm.last}.bias",
        ]
    )
    return packer.tensors
