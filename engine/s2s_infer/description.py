"""What a model is, and how it runs here: `Model.info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _core, text_rules
from .loaders.checkpoint import Checkpoint


def describe(
    checkpoint: Checkpoint, core: _core.Model, pool: _core.Pool, reasons: Mapping[str, str]
) -> dict[str, Any]:
    """In plain JSON types.  reasons: why these "threads" and this "isa"."""
    tokenizer = checkpoint.tokenizer
    weights = {
        name: array
        for name, array in checkpoint.tensors.items()
        if not (name.endswith(".positions") and checkpoint.config.encoder.positions != "learned")
        and not name.endswith((".scale", ".sum"))
    }
    return {
        "path": str(checkpoint.path),
        "family": checkpoint.family,
        "dtype": checkpoint.dtype,
        "kv_dtype": core.kv_dtype,
        "weights": sum(array.size for array in weights.values()),
        "bytes": sum(array.nbytes for array in checkpoint.tensors.values()),
        "isa": core.isa,
        "isa_reason": reasons["isa"],
        "isa_available": list(_core.ISA_NAMES),
        "threads": pool.n_threads,
        "threads_reason": reasons["threads"],
        "languages": [] if tokenizer is None else list(tokenizer.languages),
        "input": text_rules.describe(checkpoint),
        "tasks": {name: task.to_dict() for name, task in checkpoint.tasks.items()},
        "tokenizer": checkpoint.missing_tokenizer if tokenizer is None else tokenizer.kind,
        "special_tokens": checkpoint.special_tokens.to_dict(),
        "generation": checkpoint.generation.to_dict(),
        "config": checkpoint.config.to_dict(),
    }
