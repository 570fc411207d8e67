"""What every loader returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig
from ..errors import ModelError
from ..formats.safetensors import SafetensorsFile
from ..generation import GenerationConfig
from ..records import record
from ..special_tokens import SpecialTokens
from ..tasks import Task
from ..tokenizer import Tokenizer
from ..vector_rule import VectorRule

if TYPE_CHECKING:
    import numpy.typing as npt

DTYPES = ("float32", "bfloat16", "int8", "int4")
"""How matrices may be stored; arithmetic is float32, but for the exact integer products of int8."""


@record
class Checkpoint:
    """A model, ready for the core, with all that travels with it."""

    config: ModelConfig
    tensors: dict[str, npt.NDArray[Any]]
    """Canonical names of csrc/s2s.h -> packed arrays: float32, uint16 for bfloat16, or int8 with
    float32 scales and int32 sums."""
    generation: GenerationConfig
    special_tokens: SpecialTokens
    tokenizer: Tokenizer | None
    missing_tokenizer: str | None
    """Where there is no tokenizer, a sentence that names the missing file."""
    family: str
    """Where the checkpoint came from: the name of a module of s2s_infer.loaders."""
    dtype: str
    """Storage of the matrices, one of DTYPES."""
    path: Path
    tasks: Mapping[str, Task] = field(default_factory=dict)
    """Task name -> its prefix and decoding defaults."""
    vectors: VectorRule | None = None
    """How the checkpoint makes a vector of a text, where its files say so."""
    file: SafetensorsFile | None = None
    """The mapped native file that the tensors are in; None: they are in memory."""


def checked_tokens(
    config: ModelConfig, special_tokens: SpecialTokens, generation: GenerationConfig
) -> None:
    """Raise ModelError if an id of the description is outside the vocabulary it belongs to."""
    for what, ids, size in (
        ("the start token", (special_tokens.start,), config.vocab_size),
        ("the beginning token", (special_tokens.bos,), config.vocab_size),
        ("the end token", special_tokens.end, config.vocab_size),
        ("the unknown token", (special_tokens.unknown,), config.source_vocab_size),
        ("the padding token", (special_tokens.padding,), config.source_vocab_size),
        ("a language token", special_tokens.languages.values(), config.source_vocab_size),
        ("decoder_start_token_id", (generation.decoder_start_token_id,), config.vocab_size),
        ("eos_token_id", generation.eos_token_id, config.vocab_size),
        ("forced_bos_token_id", (generation.forced_bos_token_id,), config.vocab_size),
        ("forced_eos_token_id", generation.forced_eos_token_id, config.vocab_size),
        ("suppress_tokens", generation.suppress_tokens, config.vocab_size),
        ("begin_suppress_tokens", generation.begin_suppress_tokens, config.vocab_size),
        (
            "bad_words_ids",
            [i for word in generation.bad_words_ids for i in word],
            config.vocab_size,
        ),
    ):
        for id in ids:
            if id is not None and id >= size:
                raise ModelError(f"{what} has the id {id}, but the vocabulary has {size} tokens.")
