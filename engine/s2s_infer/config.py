"""The two descriptions that travel with a model: what it computes and how it is decoded.

`ModelConfig` (with two `StackConfig`) mirrors ``s2s_model_config`` of the C core, `SpecialTokens`
names the roles of token ids, and `GenerationConfig` is the one list of decoding options: the CLI's
flags and help texts and the options of the C core are derived from its fields.
All are immutable, validated when made, and travel as JSON through `to_dict` and `from_dict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from enum import Enum
from typing import Any

from . import kinds
from .errors import ModelError, OptionError
from .kinds import INT32_MAX, OptionKind


class Activation(str, Enum):
    """Activation of the feed-forward layers."""

    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"
    """0.5 x (1 + erf(x / sqrt 2))"""
    GELU_TANH = "gelu_tanh"
    """The tanh approximation of GELU."""
    IDENTITY = "identity"


class NormPlace(str, Enum):
    """Where the layer norm of a sublayer is: after the residual sum, or before the sublayer."""

    POST = "post"
    PRE = "pre"


class Positions(str, Enum):
    """How positions enter the embeddings."""

    SINUSOIDAL = "sinusoidal"
    """Interleaved sines and cosines (Vaswani et al., 2017)."""
    SINUSOIDAL_HALVES = "sinusoidal_halves"
    """The sines first, then the cosines (Marian)."""
    LEARNED = "learned"
    NONE = "none"


_CORE_ENUMS: dict[Enum, int] = {
    **{activation: i for i, activation in enumerate(Activation)},
    NormPlace.POST: 0,
    NormPlace.PRE: 1,
    Positions.NONE: 0,
    Positions.SINUSOIDAL: 1,
    Positions.SINUSOIDAL_HALVES: 1,
    Positions.LEARNED: 1,
}


def _set(instance: Any, name: str, value: object) -> None:
    """Assign a field of a frozen dataclass from its own __post_init__."""
    object.__setattr__(instance, name, value)


def _model_integer(owner: str, name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= INT32_MAX:
        raise ModelError(f"{owner}.{name} must be an integer of at least {minimum}, not {value!r}.")


def _model_fields(cls: type[Any], values: object, what: str) -> dict[str, Any]:
    """The mapping `values` if its keys are exactly the fields of `cls`, else a ModelError."""
    if not isinstance(values, Mapping):
        raise ModelError(f"{what} must be a mapping, not {type(values).__name__}.")
    names = {f.name for f in fields(cls)}
    for problem, keys in (("lacks", names - set(values)), ("has the unknown", set(values) - names)):
        if keys:
            raise ModelError(f"{what} {problem} field {sorted(map(str, keys))[0]!r}.")
    return dict(values)


@dataclass(frozen=True)
class StackConfig:
    """One stack of layers, encoder or decoder; all its layers are alike."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    """Equal to n_heads for multi-head attention; must divide it."""
    d_head: int
    """Width of one head, without padding."""
    d_ffn: int
    activation: Activation
    norm_place: NormPlace
    embed_norm: bool
    """Layer norm on the embeddings."""
    final_norm: bool
    """Layer norm after the last layer."""
    positions: Positions
    max_positions: int
    """Longest sequence that the stack accepts, tokens."""
    window: int
    """Self-attention sees the last `window` positions; 0: all of them (decoder only)."""
    embed_scale: float
    """Token embeddings are multiplied by it."""
    attention_scale: float
    """The product of query and key is multiplied by it."""
    norm_eps: float

    def __post_init__(self) -> None:
        for name, minimum in (
            ("n_layers", 1),
            ("n_heads", 1),
            ("n_kv_heads", 1),
            ("d_head", 1),
            ("d_ffn", 1),
            ("max_positions", 1),
            ("window", 0),
        ):
            _model_integer("StackConfig", name, getattr(self, name), minimum)
        if self.n_heads % self.n_kv_heads:
            raise ModelError(
                f"StackConfig.n_kv_heads = {self.n_kv_heads} does not divide "
                f"n_heads = {self.n_heads}."
            )
        enums: tuple[tuple[str, type[Enum]], ...] = (
            ("activation", Activation),
            ("norm_place", NormPlace),
            ("positions", Positions),
        )
        for name, enum in enums:
            value = getattr(self, name)
            try:
                _set(self, name, enum(value))
            except ValueError:
                known = ", ".join(str(member.value) for member in enum)
                raise ModelError(
                    f"StackConfig.{name} must be one of {known}, not {value!r}."
                ) from None
        for name in ("embed_norm", "final_norm"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ModelError(f"StackConfig.{name} must be true or false, not {value!r}.")
        for name in ("embed_scale", "attention_scale", "norm_eps"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 < value < 1e6
            ):
                raise ModelError(f"StackConfig.{name} must be a positive number, not {value!r}.")
            _set(self, name, float(value))

    def to_core(self) -> dict[str, int | float]:
        """The fields of ``s2s_stack_config``, enums as their integer values."""
        return {
            name: _CORE_ENUMS[value]
            if isinstance(value, Enum)
            else int(value)
            if isinstance(value, bool)
            else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class ModelConfig:
    """An encoder-decoder Transformer described by data; mirrors ``s2s_model_config``."""

    vocab_size: int
    """Size of the target vocabulary, the width of the logits."""
    source_vocab_size: int
    d_model: int
    output_bias: bool
    """A bias is added to the logits."""
    encoder: StackConfig
    decoder: StackConfig

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
        if self.encoder.window:
            raise ModelError(
                f"ModelConfig.encoder.window must be 0 (windows are for the decoder), "
                f"not {self.encoder.window}."
            )

    def to_core(self) -> dict[str, Any]:
        """The mapping that ``_core.Model`` takes."""
        return {
            "vocab_size": self.vocab_size,
            "source_vocab_size": self.source_vocab_size,
            "d_model": self.d_model,
            "output_bias": int(self.output_bias),
            "encoder": self.encoder.to_core(),
            "decoder": self.decoder.to_core(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        result: dict[str, Any] = _jsonable(asdict(self))
        return result

    @classmethod
    def from_dict(cls, values: object) -> ModelConfig:
        """Read what `to_dict` wrote.  Raises ModelError naming a missing, unknown or bad field."""
        top = _model_fields(cls, values, "the model config")
        for name in ("encoder", "decoder"):
            top[name] = StackConfig(**_model_fields(StackConfig, top[name], f"config.{name}"))
        return cls(**top)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value


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

    def check_ids(self, vocab_size: int) -> None:
        """Raise ModelError if a role's id is not below `vocab_size`."""
        for name, value in self.to_dict().items():
            ids = value.values() if isinstance(value, dict) else value
            for token in ids if isinstance(value, (dict, list)) else (value,):
                if token is not None and token >= vocab_size:
                    raise ModelError(
                        f"the special token {name!r} has id {token}, but the vocabulary has only "
                        f"{vocab_size} tokens."
                    )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        result: dict[str, Any] = _jsonable(asdict(self))
        return result

    @classmethod
    def from_dict(cls, values: object) -> SpecialTokens:
        """Read what `to_dict` wrote.  Raises ModelError naming a missing, unknown or bad field."""
        return cls(**_model_fields(cls, values, "the special tokens"))


_NEUTRAL: dict[str, tuple[object, ...]] = {
    "assistant_ensemble_weight": (None,),
    "constraints": (None, []),
    "diversity_penalty": (None, 0, 0.0),
    "dola_layers": (None,),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "epsilon_cutoff": (None, 0, 0.0),
    "eta_cutoff": (None, 0, 0.0),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None, []),
    "forced_decoder_ids": (None, []),
    "guidance_scale": (None, 1, 1.0),
    "max_time": (None,),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "sequence_bias": (None, {}, []),
    "stop_strings": (None, [], ""),
    "token_healing": (None, False),
    "top_h": (None,),
    "typical_p": (None, 1, 1.0),
    "watermarking_config": (None,),
}
"""Keys of generation_config.json that change results and are not computed here, with the values at
which they change nothing."""


@dataclass(frozen=True)
class GenerationConfig:
    """How a model is decoded; names and meanings are those of Hugging Face's GenerationConfig.

    Lengths are in tokens.  A wrong value raises OptionError naming what was expected and found.
    """

    max_new_tokens: int | None = _option(
        None,
        kinds.integer(1, none="the default limit"),
        "most tokens to generate, the end token counted; by default the limit is 4 tokens for each "
        "source token plus 64, within the checkpoint's own limit and the model's positions",
        "tokens",
    )
    max_length: int | None = _option(
        None,
        kinds.integer(2, none="the default limit"),
        "as max_new_tokens, which goes first, but the start token and a forced prefix count too",
        "tokens",
    )
    min_new_tokens: int = _option(
        0, kinds.integer(0), "no end token before this many generated tokens", "tokens"
    )
    min_length: int = _option(
        0,
        kinds.integer(0),
        "as min_new_tokens, but the start token and a forced prefix count too",
        "tokens",
    )
    num_beams: int = _option(
        1, kinds.integer(1, 1024), "beams of the beam search; 1: greedy search"
    )
    length_penalty: float = _option(
        1.0,
        kinds.number(-float("inf")),
        "a score is the sum of log-probabilities divided by length ** length_penalty: above 0 "
        "favours longer outputs (beam search)",
    )
    early_stopping: bool | str = _option(
        False,
        kinds.early_stopping(),
        "when a beam search ends: true, at num_beams finished hypotheses; false, when a better one "
        "is unlikely; never, when a better one is impossible",
    )
    num_return_sequences: int = _option(
        1, kinds.integer(1, 1024), "hypotheses to return for each input, best first"
    )
    do_sample: bool = _option(
        False, kinds.boolean(), "draw each token at random by its probability"
    )
    temperature: float = _option(
        1.0, kinds.number(0, above=True), "logits are divided by it before sampling"
    )
    top_k: int = _option(
        50, kinds.integer(0), "sample from the k most probable tokens; 0: from all"
    )
    top_p: float = _option(
        1.0,
        kinds.number(0, 1, above=True),
        "sample from the smallest set of tokens whose probabilities sum to top_p",
    )
    min_p: float = _option(
        0.0,
        kinds.number(0, 1),
        "sample from tokens at least min_p times as probable as the most probable one",
    )
    seed: int | None = _option(
        None,
        kinds.integer(0, 2**64 - 1, none="a fresh one"),
        "seed of the sampling: the same input and seed give the same output, whatever else runs; "
        "by default a fresh one is drawn, which the result names",
    )
    repetition_penalty: float = _option(
        1.0,
        kinds.number(0, above=True),
        "above 1 makes tokens that were generated before less probable",
    )
    no_repeat_ngram_size: int = _option(
        0, kinds.integer(0), "no n-gram of this size occurs twice in an output; 0: off", "tokens"
    )
    encoder_no_repeat_ngram_size: int = _option(
        0,
        kinds.integer(0),
        "no n-gram of this size of the source is in the output; 0: off",
        "tokens",
    )
    repetition_stop: int | None = _option(
        None,
        kinds.integer(0, none="automatic"),
        "end an output whose last tokens are one sequence of at most 16 tokens this many times in "
        "a row; 0: off; by default 8 when no output limit is given, else off",
        "repeats",
    )
    bad_words_ids: tuple[tuple[int, ...], ...] = _option(
        (), kinds.id_lists(), "sequences of token ids that must not be generated"
    )
    suppress_tokens: tuple[int, ...] = _option(
        (), kinds.ids(), "token ids that are never generated"
    )
    begin_suppress_tokens: tuple[int, ...] = _option(
        (), kinds.ids(), "token ids that are not generated as the first token"
    )
    forced_bos_token_id: int | None = _option(
        None, kinds.integer(0, none="none"), "token id that every output begins with", "id"
    )
    forced_eos_token_id: tuple[int, ...] = _option(
        (), kinds.ids(), "token ids, one of which ends an output that reaches its limit"
    )
    eos_token_id: tuple[int, ...] = _option(
        (), kinds.ids(), "token ids that end an output (by default those of the model)"
    )
    decoder_start_token_id: int | None = _option(
        None, kinds.integer(0, none="the model's"), "the decoder's first token id", "id"
    )
    renormalize_logits: bool = _option(
        False,
        kinds.boolean(),
        "make probabilities sum to 1 again after tokens were ruled out, so that scores of a beam "
        "search do not suffer from them",
    )
    truncate: bool = _option(
        False,
        kinds.boolean(),
        "cut an input that is longer than the model's positions, keeping its end token, instead of "
        "an error; the result says so (input_truncated)",
    )
    return_alignment: bool = _option(
        False,
        kinds.boolean(),
        "return the cross-attention of each output token: mean over the heads of the last layer",
    )
    return_alternatives: int = _option(
        0,
        kinds.integer(0, 1024),
        "return the k most probable tokens of each step and their log-probabilities",
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            kind: OptionKind = f.metadata["kind"]
            _set(self, f.name, kind.check(f.name, getattr(self, f.name)))
        if self.do_sample and self.num_beams > 1:
            raise OptionError(
                f"do_sample=True needs num_beams=1, but num_beams is {self.num_beams}: sampling "
                "within a beam search is not supported."
            )
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise OptionError(
                f"num_return_sequences={self.num_return_sequences} is more than "
                f"num_beams={self.num_beams}: give at least as many beams, or do_sample=True."
            )

    def replace(self, **options: Any) -> GenerationConfig:
        """A copy with some options changed; an unknown name is an OptionError suggesting one."""
        if not options:
            return self
        for name in options:
            if name not in GENERATION_OPTIONS:
                raise OptionError(_unknown_option(name))
        return replace(self, **options)

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain JSON types for `from_dict`."""
        return {
            f.name: _jsonable(getattr(self, f.name))
            for f in fields(self)
            if getattr(self, f.name) != f.default
        }

    @classmethod
    def from_dict(cls, values: object) -> GenerationConfig:
        """Read a generation_config.json, or what `to_dict` wrote.

        Keys that do not concern decoding here (padding id, cache settings, ...) are ignored; None
        is the same as absent.  Raises ModelError naming the key for a bad value, and for a key that
        would change the result but is not supported.
        """
        if not isinstance(values, Mapping):
            raise ModelError(
                f"the generation config must be a mapping, not {type(values).__name__}."
            )
        for key, neutral in _NEUTRAL.items():
            if key in values and values[key] not in neutral:
                raise ModelError(
                    f"the generation config sets {key} to {values[key]!r}, which is not supported."
                )
        options = {
            name: values[name] for name in GENERATION_OPTIONS if values.get(name) is not None
        }
        try:
            return cls(**options)
        except OptionError as error:
            raise ModelError(f"in the generation config, {error}") from error

    def to_core(self, *, n_prefix: int, max_new_tokens: int, default_limit: bool) -> dict[str, Any]:
        """The options of ``_core.Session.submit``.

        n_prefix: tokens of the prefix, start token counted.  max_new_tokens: the limit that
        applies; default_limit: whether it is the default one, not the caller's.  The seed must be
        set when sampling.
        """
        repetition_stop = self.repetition_stop
        if repetition_stop is None:
            repetition_stop = DEFAULT_REPETITION_STOP if default_limit else 0
        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min(
                max_new_tokens, self.min_new_tokens or max(0, self.min_length - n_prefix)
            ),
            "repetition_stop": repetition_stop,
            "eos_token_ids": self.eos_token_id,
            "forced_eos_token_ids": self.forced_eos_token_id,
            "bad_words": self.bad_words_ids,
            "return_alignment": self.return_alignment,
            "n_alternatives": self.return_alternatives,
        }
        if self.forced_bos_token_id is not None:
            options["forced_bos_token_id"] = self.forced_bos_token_id
        for name in _CORE_SAME_NAME:
            options[name] = getattr(self, name)
        if self.do_sample:
            for name in _CORE_SAMPLING:
                options[name] = getattr(self, name)
        if self.renormalize_logits:
            options["renormalize_logits"] = True
        return options


DEFAULT_REPETITION_STOP = 8
"""Repeats that end an output when neither a limit nor repetition_stop is given."""

_CORE_SAME_NAME = (
    "num_beams",
    "num_return_sequences",
    "early_stopping",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "suppress_tokens",
    "begin_suppress_tokens",
)
_CORE_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "seed")

GENERATION_OPTIONS: Mapping[str, Field[Any]] = {f.name: f for f in fields(GenerationConfig)}
"""Option name -> dataclass field, whose metadata has "kind" (OptionKind), "help" and "unit"."""


def _unknown_option(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(GENERATION_OPTIONS), n=1)
    if close:
        return f"unknown option {name!r}; did you mean {close[0]!r}?"
    if name in _NEUTRAL:
        return f"option {name!r} is not supported."
    return f"unknown option {name!r}; the options are {', '.join(GENERATION_OPTIONS)}."
