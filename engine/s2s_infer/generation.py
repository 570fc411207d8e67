"""Decoding options.

`GenerationConfig` is the one list of them: the CLI's flags and help texts and the options of the C
core are derived from its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import Field, fields
from typing import Any

from . import kinds
from .errors import ModelError, OptionError
from .records import record

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


@record
class GenerationConfig:
    """How a model is decoded; names and meanings are those of Hugging Face's GenerationConfig.

    Lengths are in tokens.  A wrong value raises OptionError naming what was expected and found.
    """

    max_new_tokens: int | None = kinds.option(
        None,
        kinds.integer(1, none="the default limit"),
        "most tokens to generate, the end token counted; by default the limit is 4 tokens for each "
        "source token plus 64, within the checkpoint's own limit and the model's positions",
        "tokens",
    )
    max_length: int | None = kinds.option(
        None,
        kinds.integer(2, none="the default limit"),
        "as max_new_tokens, which goes first, but the start token and a forced prefix count too",
        "tokens",
    )
    min_new_tokens: int = kinds.option(
        0, kinds.integer(0), "no end token before this many generated tokens", "tokens"
    )
    min_length: int = kinds.option(
        0,
        kinds.integer(0),
        "as min_new_tokens, but the start token and a forced prefix count too",
        "tokens",
    )
    num_beams: int = kinds.option(
        1, kinds.integer(1, 1024), "beams of the beam search; 1: greedy search"
    )
    length_penalty: float = kinds.option(
        1.0,
        kinds.number(-16, 16),
        "a score is the sum of log-probabilities divided by length ** length_penalty: above 0 "
        "favours longer outputs (beam search)",
    )
    early_stopping: bool | str = kinds.option(
        False,
        kinds.early_stopping(),
        "when a beam search ends: true, at num_beams finished hypotheses; false, when a better one "
        "is unlikely; never, when a better one is impossible",
    )
    num_return_sequences: int = kinds.option(
        1, kinds.integer(1, 1024), "hypotheses to return for each input, best first"
    )
    do_sample: bool = kinds.option(
        False, kinds.boolean(), "draw each token at random by its probability"
    )
    temperature: float = kinds.option(
        1.0, kinds.number(0), "logits are divided by it before sampling"
    )
    top_k: int = kinds.option(
        50, kinds.integer(0), "sample from the k most probable tokens; 0: from all"
    )
    top_p: float = kinds.option(
        1.0,
        kinds.number(0, 1),
        "sample from the smallest set of tokens whose probabilities sum to top_p",
    )
    min_p: float = kinds.option(
        0.0,
        kinds.number(0, 1),
        "sample from tokens at least min_p times as probable as the most probable one",
    )
    seed: int | None = kinds.option(
        None,
        kinds.integer(0, 2**64 - 1, none="a fresh one"),
        "seed of the sampling: the same input and seed give the same output, whatever else runs; "
        "by default a fresh one is drawn, which the result names",
    )
    repetition_penalty: float = kinds.option(
        1.0,
        kinds.number(0, above=True),
        "above 1 makes tokens that were generated before less probable",
    )
    no_repeat_ngram_size: int = kinds.option(
        0, kinds.integer(0), "no n-gram of this size occurs twice in an output; 0: off", "tokens"
    )
    encoder_no_repeat_ngram_size: int = kinds.option(
        0,
        kinds.integer(0),
        "no n-gram of this size of the source is in the output; 0: off",
        "tokens",
    )
    repetition_stop: int | None = kinds.option(
        None,
        kinds.integer(0, none="automatic"),
        "end an output whose last tokens are one sequence of at most 16 tokens this many times in "
        "a row; 0: off; by default 8 when no output limit is given, else off",
        "repeats",
    )
    bad_words_ids: tuple[tuple[int, ...], ...] = kinds.option(
        (), kinds.id_lists(), "sequences of token ids that must not be generated"
    )
    suppress_tokens: tuple[int, ...] = kinds.option(
        (), kinds.ids(), "token ids that are never generated"
    )
    begin_suppress_tokens: tuple[int, ...] = kinds.option(
        (), kinds.ids(), "token ids that are not generated as the first token"
    )
    forced_bos_token_id: int | None = kinds.option(
        None, kinds.integer(0, none="none"), "token id that every output begins with", "id"
    )
    forced_eos_token_id: tuple[int, ...] = kinds.option(
        (), kinds.ids(), "token ids, one of which ends an output that reaches its limit"
    )
    eos_token_id: tuple[int, ...] = kinds.option(
        (), kinds.ids(), "token ids that end an output (by default those of the model)"
    )
    decoder_start_token_id: int | None = kinds.option(
        None, kinds.integer(0, none="the model's"), "the decoder's first token id", "id"
    )
    renormalize_logits: bool = kinds.option(
        False,
        kinds.boolean(),
        "make probabilities sum to 1 again after tokens were ruled out, so that scores of a beam "
        "search do not suffer from them",
    )
    truncate: bool = kinds.option(
        False,
        kinds.boolean(),
        "cut an input that is longer than the model's positions, keeping its end token, instead of "
        "an error; the result says so (input_truncated)",
    )
    return_scores: bool = kinds.option(
        True,
        kinds.boolean(),
        "return the score and the log-probability of each token; without them greedy search is "
        "faster, since it needs no softmax, and finds the same tokens (a float32 or bfloat16 model "
        "then keeps an int8 copy of its output matrix, to compute only logits that can win)",
    )
    return_alignment: bool = kinds.option(
        False,
        kinds.boolean(),
        "return the cross-attention of each output token: mean over the heads of the last layer",
    )
    return_alternatives: int = kinds.option(
        0,
        kinds.integer(0, 1024),
        "return as many of the most probable tokens of each step, and their log-probabilities",
    )

    def __post_init__(self) -> None:
        self._set({f.name: getattr(self, f.name) for f in fields(self)})

    def _set(self, options: Mapping[str, Any]) -> None:
        """Check these options, then all together."""
        for name, value in options.items():
            kind: kinds.OptionKind = GENERATION_OPTIONS[name].metadata["kind"]
            object.__setattr__(self, name, kind.check(name, value))
        if self.do_sample and self.temperature == 0:
            raise OptionError("temperature must be above 0 when do_sample is True, not 0.")
        if self.repetition_stop == 1:
            raise OptionError("repetition_stop must be 0 (off) or at least 2, not 1.")
        independent = self.do_sample and self.num_beams == 1
        if self.num_return_sequences > self.num_beams and not independent:
            raise OptionError(
                f"num_return_sequences={self.num_return_sequences} is more than "
                f"num_beams={self.num_beams}: give as many beams, or sample with num_beams=1."
            )

    def replace(self, **options: Any) -> GenerationConfig:
        """A copy with some options changed; an unknown name is an OptionError suggesting one."""
        if not options:
            return self
        for name in options:
            if name not in GENERATION_OPTIONS:
                raise OptionError(_unknown_option(name))
        result = copy(self)  # checked already: a call is too short to check everything again
        result._set(options)
        return result

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain JSON types for `from_dict`."""
        return {
            f.name: kinds.jsonable(getattr(self, f.name))
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
            "min_new_tokens": self.min_new_tokens or max(0, self.min_length - n_prefix),
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
    "renormalize_logits",
    "return_scores",
)
_CORE_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "seed")

GENERATION_OPTIONS: Mapping[str, Field[Any]] = {f.name: f for f in fields(GenerationConfig)}
"""Option name -> dataclass field, whose metadata has "kind" (an OptionKind), "help", "unit"."""


def _unknown_option(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(GENERATION_OPTIONS), n=1)
    if close:
        return f"unknown option {name!r}; did you mean {close[0]!r}?"
    if name in _NEUTRAL:
        return f"option {name!r} is not supported."
    return f"unknown option {name!r}; the options are {', '.join(GENERATION_OPTIONS)}."
