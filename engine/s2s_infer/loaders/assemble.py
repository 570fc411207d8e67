"""The last step of every loader: what travels with a model beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..config import ModelConfig
from ..generation import GenerationConfig
from ..special_tokens import SpecialTokens
from ..tasks import read_tasks
from ..tokenizer import Tokenizer
from ..tokenizer_files import open_tokenizer
from ..vector_rule import read_vector_rule
from .checkpoint import Checkpoint, checked_tokens
from .fields import Fields, read_generation


def assemble(
    fields: Fields,
    model: ModelConfig,
    tensors: dict[str, npt.NDArray[Any]],
    *,
    family: str,
    dtype: str,
    ids: Mapping[str, int | None],
) -> Checkpoint:
    """The checkpoint of a directory: tokenizer, special tokens and decoding defaults beside what
    the family's loader made.

    ids: defaults of the family's config class, for the ids that config.json does not name.  Raises
    ModelError.
    """

    def id_of(key: str) -> int | None:
        id: int | None = fields.integer(key, 0, default=ids.get(key))
        return id

    path = fields.path.parent
    tokenizer, missing = open_tokenizer(path, family)
    if tokenizer is not None:
        tokenizer.check_vocabulary(model.source_vocab_size, model.vocab_size)
    if not model.has_decoder:
        special_tokens = SpecialTokens(
            padding=id_of("pad_token_id"),
            unknown=None if tokenizer is None else tokenizer.unknown_id,
        )
        return assemble_encoder(
            model, tensors, special_tokens, tokenizer, missing, family, dtype, path
        )
    end = ids.get("eos_token_id")
    special_tokens = SpecialTokens(
        start=id_of("decoder_start_token_id"),
        bos=id_of("bos_token_id"),
        end=fields.ids("eos_token_id", default=() if end is None else (end,)),
        padding=id_of("pad_token_id"),
        unknown=None if tokenizer is None else tokenizer.unknown_id,
        languages={} if tokenizer is None else tokenizer.languages,
    )
    defaults = {"eos_token_id": special_tokens.end, "decoder_start_token_id": special_tokens.start}
    if not (path / "generation_config.json").exists():
        defaults["forced_eos_token_id"] = ids.get("forced_eos_token_id")
    generation = read_generation(path, fields.values, defaults)
    checked_tokens(model, special_tokens, generation)
    return Checkpoint(
        model,
        tensors,
        generation,
        special_tokens,
        tokenizer,
        missing,
        family,
        dtype,
        path,
        read_tasks(fields.raw("task_specific_params"), str(fields.path)),
    )


def assemble_encoder(
    model: ModelConfig,
    tensors: dict[str, npt.NDArray[Any]],
    special_tokens: SpecialTokens,
    tokenizer: Tokenizer | None,
    missing: str | None,
    family: str,
    dtype: str,
    path: Path,
) -> Checkpoint:
    """The checkpoint of an encoder alone, which generates nothing and may have a rule for vectors.
    Raises ModelError."""
    generation = GenerationConfig()
    checked_tokens(model, special_tokens, generation)
    return Checkpoint(
        model,
        tensors,
        generation,
        special_tokens,
        tokenizer,
        missing,
        family,
        dtype,
        path,
        vectors=read_vector_rule(path),
    )
