"""The description that travels with a model: `ModelConfig`, `SpecialTokens`, `GenerationConfig`.

`ModelConfig` (with two `StackConfig`) mirrors ``s2s_model_config`` of the C core, `SpecialTokens`
names the roles of token ids.  All are immutable, validated when made, and travel as JSON through
`to_dict` and `from_dict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import Enum
from typing import Any

from .errors import ModelError
from .generation import GenerationConfig
from .kinds import INT32_MAX, jsonable

__all__ = [
    "Activation",
    "GenerationConfig",
    "ModelConfig",
    "NormKind",
    "NormPlace",
    "Positions",
    "SpecialTokens",
    "StackConfig",
]


class Activation(str, Enum):
    """Activation of the feed-forward layers."""

    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"
    """0.5 x (1 + erf(x / sqrt 2))"""
    GELU_TANH = "gelu_tanh"
    """The tanh approximation of GELU."""
    IDENTITY = "identity"
    TANH = "tanh"


class NormKind(str, Enum):
    """What a norm computes."""

    LAYER = "layer"
    """Mean 0 and variance 1, times a weight, plus a bias."""
    RMS = "rms"
    """Mean square 1, times a weight."""


class NormPlace(str, Enum):
    """Where the norms of a block are, from its input to the residual sum."""

    POST = "post"
    """After the residual sum."""
    PRE = "pre"
    """Before the block."""
    SANDWICH = "sandwich"
    """Before the block and after it, before the residual sum."""


class Positions(str, Enum):
    """How positions enter: a table added to the embeddings, or in self-attention, or not at all."""

    SINUSOIDAL = "sinusoidal"
    """Interleaved sines and cosines (Vaswani et al., 2017)."""
    SINUSOIDAL_HALVES = "sinusoidal_halves"
    """The sines first, then the cosines (Marian)."""
    SINUSOIDAL_FAIRSEQ = "sinusoidal_fairseq"
    """The sines first, another spacing of the angles, the first position counted as 2 (M2M100)."""
    LEARNED = "learned"
    RELATIVE = "relative"
    """A bias for each head and distance is added to the scores (T5: Raffel et al., 2020)."""
    ROTARY = "rotary"
    """Queries and keys turn by an angle for each position (Su et al., 2021)."""
    NONE = "none"


class LabelScores(str, Enum):
    """How the logits of a classifier become scores."""

    SOFTMAX = "softmax"
    """Probabilities of labels of which one holds."""
    SIGMOID = "sigmoid"
    """A probability for each label by itself (multi-label classification)."""
    IDENTITY = "identity"
    """The numbers themselves (regression)."""


_CORE_ENUMS: dict[Enum, int] = {
    **{activation: i for i, activation in enumerate(Activation)},
    NormKind.LAYER: 0,
    NormKind.RMS: 1,
    NormPlace.POST: 0,
    NormPlace.PRE: 1,
    NormPlace.SANDWICH: 2,
    Positions.NONE: 0,
    Positions.SINUSOIDAL: 1,
    Positions.SINUSOIDAL_HALVES: 1,
    Positions.SINUSOIDAL_FAIRSEQ: 1,
    Positions.LEARNED: 1,
    Positions.RELATIVE: 2,
    Positions.ROTARY: 3,
}


def _set(instance: Any, name: str, value: object) -> None:
    """Assign a field of a frozen dataclass from its own __post_init__."""
    object.__setattr__(instance, name, value)


def _set_enum(instance: Any, name: str, enum: type[Enum]) -> None:
    """Make the field a member of `enum`, or raise ModelError."""
    value = getattr(instance, name)
    try:
        _set(instance, name, enum(value))
    except ValueError:
        known = ", ".join(str(member.value) for member in enum)
        raise ModelError(
            f"{type(instance).__name__}.{name} must be one of {known}, not {value!r}."
        ) from None


def _model_integer(owner: str, name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= INT32_MAX:
        raise ModelError(f"{owner}.{name} must be an integer of at least {minimum}, not {value!r}.")


def _model_number(owner: str, name: str, value: object, least: float = 1e-30) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e6:
        expected = "a positive number" if least else "a number of at least 0"
        raise ModelError(f"{owner}.{name} must be {expected}, not {value!r}.")
    return float(value)


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _model_fields(
    cls: type[Any], values: object, what: str, may_lack_defaults: bool = False
) -> dict[str, Any]:
    """The mapping `values` if its keys are exactly the fields of `cls`, else a ModelError.

    may_lack_defaults: fields that have a default may be absent, since files were written before
    there was a choice.
    """
    if not isinstance(values, Mapping):
        raise ModelError(f"{what} must be a mapping, not {type(values).__name__}.")
    names = {f.name for f in fields(cls)}
    needed = {
        f.name
        for f in fields(cls)
        if (f.default is MISSING and f.default_factory is MISSING) or not may_lack_defaults
    }
    absent, unknown = needed - set(values), set(values) - names
    for problem, keys in (("lacks", absent), ("has the unknown", unknown)):
        if keys:
            raise ModelError(f"{what} {problem} field {sorted(map(str, keys))[0]!r}.")
    return dict(values)


@dataclass(frozen=True)
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
            _model_integer("StackConfig", name, getattr(self, name), minimum)
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
            _set_enum(self, name, enum)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "bool" and not isinstance(value, bool):
                raise ModelError(f"StackConfig.{f.name} must be true or false, not {value!r}.")
        for name in ("embed_scale", "attention_scale", "rotary_scale", "norm_eps"):
            _set(self, name, _model_number("StackConfig", name, getattr(self, name)))
        full: Any = self.full_layers
        if (
            not isinstance(full, (list, tuple))
            or not all(type(i) is int and 0 <= i < self.n_layers for i in full)
            or sorted(set(full)) != list(full)
        ):
            raise ModelError(
                f"StackConfig.full_layers must be rising indices of layers, not {full!r}."
            )
        _set(self, "full_layers", tuple(full))
        cap = _model_number("StackConfig", "attention_softcap", self.attention_softcap, 0.0)
        _set(self, "attention_softcap", cap)

    @property
    def d_cached(self) -> int:
        """Numbers that self-attention caches of one position in one layer, padding included."""
        if self.kv_rank:
            return _round_up(self.kv_rank, 32) + _round_up(self.d_rotary, 16)
        return 2 * self.n_kv_heads * _round_up(self.d_head, 16)

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
        name: _CORE_ENUMS[value]
        if isinstance(value, Enum)
        else int(value)
        if isinstance(value, bool)
        else value
        for name, value in vars(config).items()
    }


@dataclass(frozen=True)
class HeadLayer:
    """A layer of a head: y = norm(activation(x W + b))."""

    n_out: int
    """Its width: d_model but for the head's last layer."""
    activation: Activation
    norm: bool

    def __post_init__(self) -> None:
        _model_integer("HeadLayer", "n_out", self.n_out, 1)
        _set_enum(self, "activation", Activation)
        if not isinstance(self.norm, bool):
            raise ModelError(f"HeadLayer.norm must be true or false, not {self.norm!r}.")


HEADS = ("pooler", "masked_lm", "classifier")
"""What may read an encoder's hidden states beside a decoder."""


@dataclass(frozen=True)
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
            _model_integer("ModelConfig", name, getattr(self, name), 1)
        if not isinstance(self.output_bias, bool):
            raise ModelError(
                f"ModelConfig.output_bias must be true or false, not {self.output_bias!r}."
            )
        for name in ("encoder", "decoder"):
            value = getattr(self, name)
            if not isinstance(value, StackConfig):
                raise ModelError(f"ModelConfig.{name} must be a StackConfig, not {value!r}.")
        cap = _model_number("ModelConfig", "output_softcap", self.output_softcap, 0.0)
        _set(self, "output_softcap", cap)
        if not self.has_encoder and not self.has_decoder:
            raise ModelError("ModelConfig must have an encoder or a decoder of at least one layer.")
        self._check_heads()

    @property
    def has_encoder(self) -> bool:
        return self.encoder.n_layers > 0

    @property
    def has_decoder(self) -> bool:
        return self.decoder.n_layers > 0

    def _check_heads(self) -> None:
        if not isinstance(self.heads, Mapping) or not set(self.heads) <= set(HEADS):
            raise ModelError(
                f"ModelConfig.heads must be some of {', '.join(HEADS)}, not {self.heads!r}."
            )
        _set(self, "heads", {name: tuple(layers) for name, layers in self.heads.items()})
        for name, layers in self.heads.items():
            if not layers or not all(isinstance(layer, HeadLayer) for layer in layers):
                raise ModelError(f"ModelConfig.heads[{name!r}] must be layers, not {layers!r}.")
        labels: Any = self.labels
        if not isinstance(labels, (list, tuple)) or not all(isinstance(s, str) for s in labels):
            raise ModelError(f"ModelConfig.labels must be strings, not {labels!r}.")
        _set(self, "labels", tuple(labels))
        n_labels = self.heads["classifier"][-1].n_out if "classifier" in self.heads else 0
        if len(labels) != n_labels:
            raise ModelError(
                f"ModelConfig.labels has {len(labels)} names for the {n_labels} outputs of the "
                "classifier."
            )
        _set_enum(self, "label_scores", LabelScores)

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
        top = _model_fields(cls, values, "the model config", may_lack_defaults=True)
        for name in ("encoder", "decoder"):
            stack = _model_fields(StackConfig, top[name], f"config.{name}", may_lack_defaults=True)
            top[name] = StackConfig(**stack)
        heads = top.get("heads", {})
        if not isinstance(heads, Mapping) or not all(isinstance(h, list) for h in heads.values()):
            raise ModelError(f"config.heads must map names to lists of layers, not {heads!r}.")
        top["heads"] = {
            name: [
                HeadLayer(**_model_fields(HeadLayer, layer, f"config.heads.{name}"))
                for layer in layers
            ]
            for name, layers in heads.items()
        }
        return cls(**top)


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids by role; None where a model has no such token."""

    start: int | None = None
    """The decoder's first input (decoder_start_token_id)."""
    bos: int | None = None
    """Beginning of a sentence."""
    end: tuple[int, ...] = ()
    """Any of these ends a sentence (eos_token_id)."""
    padding: int | None = None
    unknown: int | None = None
    mask: int | None = None
    classification: int | None = None
    separation: int | None = None
    languages: Mapping[str, int] = field(default_factory=dict)
    """Language code -> token id."""

    def __post_init__(self) -> None:
        def check(name: str, value: object) -> None:
            _model_integer("SpecialTokens", name, value, 0)

        end: Any = self.end
        if end is None or isinstance(end, int):
            end = () if end is None else (end,)
        if isinstance(end, str) or not isinstance(end, Iterable):
            raise ModelError(f"SpecialTokens.end must be token ids, not {end!r}.")
        _set(self, "end", tuple(end))
        if not isinstance(self.languages, Mapping):
            raise ModelError(
                f"SpecialTokens.languages must map codes to ids, not {self.languages!r}."
            )
        _set(self, "languages", dict(self.languages))
        for token in self.end:
            check("end", token)
        for code, token in self.languages.items():
            check(f"languages[{code!r}]", token)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in ("end", "languages") and value is not None:
                check(f.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        result: dict[str, Any] = jsonable(asdict(self))
        return result

    @classmethod
    def from_dict(cls, values: object) -> SpecialTokens:
        """Read what `to_dict` wrote.  Raises ModelError naming a missing, unknown or bad field."""
        return cls(**_model_fields(cls, values, "the special tokens"))
