"""The description of a Transformer: `ModelConfig`, with a `StackConfig` for each of its stacks.

It mirrors ``s2s_model_config`` of the C core, is validated when made, and travels as JSON through
`to_dict` and `from_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, fields
from enum import Enum
from typing import Any

from .config_enums import (
    CORE_ENUMS,
    Activation,
    LabelScores,
    NormKind,
    NormPlace,
    Positions,
)
from .config_fields import check_integer, checked_fields, checked_number, set_enum, set_field
from .errors import ModelError
from .kinds import jsonable
from .records import record


def round_up(n: int, unit: int) -> int:
    """The smallest multiple of `unit` that is not below n."""
    return -(-n // unit) * unit


@record
class StackConfig:
    """One stack of layers, encoder or decoder; all its layers are alike."""

    n_layers: int
    """0: there is no such stack (see `absent`)."""
    n_heads: int
    n_kv_heads: int
    """Equal to n_heads for multi-head attention; must divide it."""
    d_head: int
    """Width of one head, without padding."""
    d_ffn: int
    activation: Activation
    norm_place: NormPlace
    embed_norm: bool
    """A norm on the embeddings."""
    final_norm: bool
    """A norm after the last layer."""
    positions: Positions
    max_positions: int
    """Longest sequence that the stack accepts, tokens."""
    window: int
    """Self-attention sees the last `window` positions (decoder), or as many on either side of its
    own (encoder); 0: all of them."""
    embed_scale: float
    """Token embeddings are multiplied by it."""
    attention_scale: float
    """The product of query and key is multiplied by it."""
    norm_eps: float
    norm_kind: NormKind = NormKind.LAYER
    ffn_gated: bool = False
    """The feed-forward block computes activation(gate) * up, both from its input (GLU: Shazeer,
    2020)."""
    qkv_bias: bool = True
    """The products that make queries, keys and values have a bias."""
    out_bias: bool = True
    """So has the one after attention."""
    ffn_bias: bool = True
    """So have those of the feed-forward block."""
    n_token_types: int = 0
    """Rows of a table of token types, which is added to the embeddings (BERT); 0: none."""
    max_distance: int = 0
    """Relative positions: keys farther away than this count as at this distance."""
    relative_per_layer: bool = False
    """Relative positions: each layer has its own biases."""
    d_rotary: int = 0
    """Rotary positions: how many elements of a head turn; even."""
    rotary_scale: float = 1.0
    """Rotary positions: cosines and sines are multiplied by it."""
    kv_rank: int = 0
    """Above 0: latent attention (DeepSeek-AI, 2024).  Self-attention caches of each position as
    many numbers and a rotary key of d_rotary that all heads share; d_head is the width of the part
    of a query that does not turn."""
    kv_norm: bool = True
    """Latent attention: a norm on the kv_rank numbers."""
    q_rank: int = 0
    """Latent attention: queries are made by way of as many numbers; 0: at once."""
    d_value: int = 0
    """Latent attention: width of a head's value."""
    full_layers: tuple[int, ...] = ()
    """Indices of the layers that see all positions in spite of `window`, rising."""
    attention_softcap: float = 0.0
    """Scores become cap * tanh(scores / cap); 0: as they are."""

    @classmethod
    def absent(cls) -> StackConfig:
        """The stack that a model of one stack lacks."""
        return cls(
            n_layers=0,
            n_heads=1,
            n_kv_heads=1,
            d_head=1,
            d_ffn=1,
            activation=Activation.IDENTITY,
            norm_place=NormPlace.PRE,
            embed_norm=False,
            final_norm=False,
            positions=Positions.NONE,
            max_positions=1,
            window=0,
            embed_scale=1.0,
            attention_scale=1.0,
            norm_eps=1e-6,
        )

    def __post_init__(self) -> None:
        for name, minimum in (
            ("n_layers", 0),
            ("n_heads", 1),
            ("n_kv_heads", 1),
            ("d_head", 1),
            ("d_ffn", 1),
            ("max_positions", 1),
            ("window", 0),
            ("n_token_types", 0),
            ("max_distance", int(self.positions == Positions.RELATIVE)),
            ("d_rotary", 2 * int(self.positions == Positions.ROTARY)),
            ("kv_rank", 0),
            ("q_rank", 0),
            ("d_value", int(self.kv_rank != 0)),
        ):
            check_integer("StackConfig", name, getattr(self, name), minimum)
        if self.n_heads % self.n_kv_heads:
            raise ModelError(
                f"StackConfig.n_kv_heads = {self.n_kv_heads} does not divide "
                f"n_heads = {self.n_heads}."
            )
        if (self.d_rotary > self.d_head and not self.kv_rank) or self.d_rotary % 2:
            raise ModelError(
                f"StackConfig.d_rotary must be even and at most d_head = {self.d_head}, not "
                f"{self.d_rotary}."
            )
        enums: tuple[tuple[str, type[Enum]], ...] = (
            ("activation", Activation),
            ("norm_kind", NormKind),
            ("norm_place", NormPlace),
            ("positions", Positions),
        )
        for name, enum in enums:
            set_enum(self, name, enum)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "bool" and not isinstance(value, bool):
                raise ModelError(f"StackConfig.{f.name} must be true or false, not {value!r}.")
        for name in ("embed_scale", "attention_scale", "rotary_scale", "norm_eps"):
            set_field(self, name, checked_number("StackConfig", name, getattr(self, name)))
        full: Any = self.full_layers
        if (
            not isinstance(full, (list, tuple))
            or not all(type(i) is int and 0 <= i < self.n_layers for i in full)
            or sorted(set(full)) != list(full)
        ):
            raise ModelError(
                f"StackConfig.full_layers must be rising indices of layers, not {full!r}."
            )
        set_field(self, "full_layers", tuple(full))
        cap = checked_number("StackConfig", "attention_softcap", self.attention_softcap, 0.0)
        set_field(self, "attention_softcap", cap)

    @property
    def d_cached(self) -> int:
        """Numbers that self-attention caches of one position in one layer, padding included."""
        if self.kv_rank:
            return round_up(self.kv_rank, 32) + round_up(self.d_rotary, 16)
        return 2 * self.n_kv_heads * round_up(self.d_head, 16)

    def cached_positions(self, length: int) -> int:
        """Positions that self-attention keeps of a sequence, all layers together."""
        if not self.window:
            return self.n_layers * length
        n_full = len(self.full_layers)
        return n_full * length + (self.n_layers - n_full) * min(length, self.window)

    def to_core(self) -> dict[str, int | float | tuple[int, ...]]:
        """The fields of ``s2s_stack_config``, enums as their integer values."""
        return _to_core(self)


def _to_core(config: Any) -> dict[str, Any]:
    return {
        name: CORE_ENUMS[value]
        if isinstance(value, Enum)
        else int(value)
        if isinstance(value, bool)
        else value
        for name, value in vars(config).items()
    }


@record
class HeadLayer:
    """A layer of a head: y = norm(activation(x W + b))."""

    n_out: int
    """Its width: d_model but for the head's last layer."""
    activation: Activation
    norm: bool

    def __post_init__(self) -> None:
        check_integer("HeadLayer", "n_out", self.n_out, 1)
        set_enum(self, "activation", Activation)
        if not isinstance(self.norm, bool):
            raise ModelError(f"HeadLayer.norm must be true or false, not {self.norm!r}.")


HEADS = ("pooler", "masked_lm", "classifier")
"""What may read an encoder's hidden states beside a decoder."""


@record
class ModelConfig:
    """A Transformer described by data; mirrors ``s2s_model_config``."""

    vocab_size: int
    """Size of the target vocabulary, the width of the logits."""
    source_vocab_size: int
    d_model: int
    output_bias: bool
    """A bias is added to the logits."""
    encoder: StackConfig
    decoder: StackConfig
    output_softcap: float = 0.0
    """Logits become cap * tanh(logits / cap); 0: as they are."""
    heads: Mapping[str, tuple[HeadLayer, ...]] = field(default_factory=dict)
    """The layers of those of HEADS that the model has."""
    labels: tuple[str, ...] = ()
    """What the classifier's outputs mean."""
    label_scores: LabelScores = LabelScores.SOFTMAX

    @classmethod
    def decoder_alone(cls, vocab_size: int, d_model: int, decoder: StackConfig) -> ModelConfig:
        """A model without encoder and without a bias on the logits; its prompts are its source."""
        return cls(
            vocab_size=vocab_size,
            source_vocab_size=vocab_size,
            d_model=d_model,
            output_bias=False,
            encoder=StackConfig.absent(),
            decoder=decoder,
        )

    def __post_init__(self) -> None:
        for name in ("vocab_size", "source_vocab_size", "d_model"):
            check_integer("ModelConfig", name, getattr(self, name), 1)
        if not isinstance(self.output_bias, bool):
            raise ModelError(
                f"ModelConfig.output_bias must be true or false, not {self.output_bias!r}."
            )
        for name in ("encoder", "decoder"):
            value = getattr(self, name)
            if not isinstance(value, StackConfig):
                raise ModelError(f"ModelConfig.{name} must be a StackConfig, not {value!r}.")
        cap = checked_number("ModelConfig", "output_softcap", self.output_softcap, 0.0)
        set_field(self, "output_softcap", cap)
        if not self.has_encoder and not self.has_decoder:
            raise ModelError("ModelConfig must have an encoder or a decoder of at least one layer.")
        self._check_heads()

    @property
    def has_encoder(self) -> bool:
        """False for a decoder alone."""
        return self.encoder.n_layers > 0

    @property
    def has_decoder(self) -> bool:
        """False for an encoder alone."""
        return self.decoder.n_layers > 0

    def _check_heads(self) -> None:
        if not isinstance(self.heads, Mapping) or not set(self.heads) <= set(HEADS):
            raise ModelError(
                f"ModelConfig.heads must be some of {', '.join(HEADS)}, not {self.heads!r}."
            )
        set_field(self, "heads", {name: tuple(layers) for name, layers in self.heads.items()})
        for name, layers in self.heads.items():
            if not layers or not all(isinstance(layer, HeadLayer) for layer in layers):
                raise ModelError(f"ModelConfig.heads[{name!r}] must be layers, not {layers!r}.")
        labels: Any = self.labels
        if not isinstance(labels, (list, tuple)) or not all(isinstance(s, str) for s in labels):
            raise ModelError(f"ModelConfig.labels must be strings, not {labels!r}.")
        set_field(self, "labels", tuple(labels))
        n_labels = self.heads["classifier"][-1].n_out if "classifier" in self.heads else 0
        if len(labels) != n_labels:
            raise ModelError(
                f"ModelConfig.labels has {len(labels)} names for the {n_labels} outputs of the "
                "classifier."
            )
        set_enum(self, "label_scores", LabelScores)

    def to_core(self) -> dict[str, Any]:
        """The mapping that ``_core.Model`` takes."""
        return {
            "vocab_size": self.vocab_size,
            "source_vocab_size": self.source_vocab_size,
            "d_model": self.d_model,
            "output_bias": int(self.output_bias),
            "output_softcap": self.output_softcap,
            "encoder": self.encoder.to_core(),
            "decoder": self.decoder.to_core(),
            "heads": {name: [_to_core(layer) for layer in self.heads[name]] for name in self.heads},
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        result: dict[str, Any] = jsonable(asdict(self))
        return result

    @classmethod
    def from_dict(cls, values: object) -> ModelConfig:
        """Read what `to_dict` wrote.  Raises ModelError naming a missing, unknown or bad field."""
        top = checked_fields(cls, values, "the model config", may_lack_defaults=True)
        for name in ("encoder", "decoder"):
            stack = checked_fields(StackConfig, top[name], f"config.{name}", may_lack_defaults=True)
            top[name] = StackConfig(**stack)
        heads = top.get("heads", {})
        if not isinstance(heads, Mapping) or not all(isinstance(h, list) for h in heads.values()):
            raise ModelError(f"config.heads must map names to lists of layers, not {heads!r}.")
        top["heads"] = {
            name: [
                HeadLayer(**checked_fields(HeadLayer, layer, f"config.heads.{name}"))
                for layer in layers
            ]
            for name, layers in heads.items()
        }
        return cls(**top)
