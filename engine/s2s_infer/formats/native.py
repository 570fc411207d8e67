"""The native model file, *.s2s: a safetensors file that is used in place.

Its tensors are the packed ones of csrc/s2s.h under their canonical names, each 64-byte aligned, so
that a mapped file is what the kernels read: opening it copies nothing and touches the header only.
Sinusoidal position tables are computed at opening instead.  The tokenizer's files are U8 tensors
tokenizer.NAME.  The header's metadata has format, version, and as JSON: config, generation,
special_tokens, tokenizer (kind and settings), tasks; family, dtype and sha256 are plain text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..config import ModelConfig, StackConfig
from ..config_enums import Positions
from ..errors import ModelError
from ..generation import GenerationConfig
from ..loaders.checkpoint import DTYPES, Checkpoint, checked_tokens
from ..positions import TABLES
from ..special_tokens import SpecialTokens
from ..tasks import read_tasks
from ..tokenizer import DeferredTokenizer, Tokenizer
from .files import parse_json, reason, shown
from .safetensors import SafetensorsFile, open_safetensors, write_safetensors

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..vector_rule import VectorRule

    Array = npt.NDArray[Any]

FORMAT = "s2s-infer"
VERSION = "1"
KIND = "a native model file (*.s2s)"
ALIGNMENT = 64
MAX_POSITIONS_BYTES = 1 << 30
_TOKENIZER = "tokenizer."
_STORED = {"float32": "F32", "uint16": "BF16", "int8": "I8", "uint8": "U8", "int32": "I32"}


def save_native(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a native file, atomically; the same checkpoint gives the same bytes.

    Raises ModelError if the file cannot be written.
    """
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "family": checkpoint.family,
        "dtype": checkpoint.dtype,
        "config": _dump(checkpoint.config.to_dict()),
        "generation": _dump(checkpoint.generation.to_dict()),
        "special_tokens": _dump(checkpoint.special_tokens.to_dict()),
    }
    if checkpoint.tasks:
        tasks = {name: task.to_dict() for name, task in checkpoint.tasks.items()}
        metadata["tasks"] = _dump(tasks)
    if checkpoint.vectors is not None:
        metadata["vectors"] = _dump(checkpoint.vectors.to_dict())
    blobs: dict[str, bytes] = {}
    if checkpoint.tokenizer is not None:
        settings, files = checkpoint.tokenizer.to_blobs()
        metadata["tokenizer"] = _dump({"kind": checkpoint.tokenizer.kind, "settings": settings})
        blobs = dict(files)

    def tensors() -> Iterator[tuple[str, str, Array]]:
        computed = _computed(checkpoint.config)
        for name, array in checkpoint.tensors.items():
            if name not in computed:
                yield name, _STORED[array.dtype.name], array
        for name, data in sorted(blobs.items()):
            yield _TOKENIZER + name, "U8", np.frombuffer(data, np.uint8)

    try:
        write_safetensors(path, tensors(), metadata, ALIGNMENT)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {reason(error)}.") from error


def load_native(path: str | Path, dtype: str = "auto") -> Checkpoint:
    """Map a native file.  dtype: "auto" for the file's own; another one makes converted copies.

    Raises ModelError for a file that is not a sound native file of this version.
    """
    path = Path(path)
    file = open_safetensors(path, KIND)
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path} is a safetensors file of the format {shown(metadata.get('format'))}, not "
            f"{KIND}; give the directory that it is in, or convert that."
        )
    if metadata.get("version") != VERSION:
        raise ModelError(
            f"{path} is a native model file of version {shown(metadata.get('version'))}, but this "
            f"build reads version {VERSION!r}; convert the checkpoint anew."
        )
    for key in ("family", "dtype", "config", "generation", "special_tokens"):
        if key not in metadata:
            raise ModelError(f"the header of {path} lacks {key}.")
    config = ModelConfig.from_dict(_parse(metadata, "config", path))
    generation = GenerationConfig.from_dict(_parse(metadata, "generation", path))
    special_tokens = SpecialTokens.from_dict(_parse(metadata, "special_tokens", path))
    checked_tokens(config, special_tokens, generation)
    own_dtype = metadata["dtype"]
    if own_dtype not in DTYPES:
        raise ModelError(
            f"{path} has the dtype {shown(own_dtype)}; this build knows {', '.join(DTYPES)}."
        )

    tokenizer = _tokenizer(file, config, path)
    tensors = _tensors(file, config, path)
    if dtype not in ("auto", own_dtype):
        from ..loaders.packing import to_dtype

        tensors = to_dtype(tensors, dtype, config)
    tensors.update(_computed_positions(config, path))
    return Checkpoint(
        config,
        tensors,
        generation,
        special_tokens,
        tokenizer,
        None
        if tokenizer is not None
        else f"{path} has no tokenizer in it, so it takes and gives ids only.",
        metadata["family"],
        own_dtype if dtype == "auto" else dtype,
        path,
        read_tasks(_parse(metadata, "tasks", path), str(path)) if "tasks" in metadata else {},
        _vectors(metadata, path),
        file,
    )


def _vectors(metadata: Any, path: Path) -> VectorRule | None:
    if "vectors" not in metadata:
        return None
    from ..vector_rule import VectorRule

    return VectorRule.from_dict(_parse(metadata, "vectors", path), f"the header of {path}")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _parse(metadata: Any, key: str, path: Path) -> Any:
    return parse_json(metadata[key], f"{key} in the header of {path}")


def _computed(config: ModelConfig) -> dict[str, StackConfig]:
    """The tensors that are not in a file, and the stack of each."""
    stacks = {"encoder.positions": config.encoder, "decoder.positions": config.decoder}
    return {name: stack for name, stack in stacks.items() if stack.positions in TABLES}


def _computed_positions(config: ModelConfig, path: Path) -> dict[str, Array]:
    tables: dict[tuple[Positions, int], Array] = {}
    result: dict[str, Array] = {}
    for name, stack in _computed(config).items():
        if stack.max_positions * config.d_model * 4 > MAX_POSITIONS_BYTES:
            raise ModelError(
                f"{path} has max_positions {stack.max_positions} with d_model {config.d_model}, "
                "which is absurd."
            )
        key = (stack.positions, stack.max_positions)
        if key not in tables:
            tables[key] = TABLES[stack.positions](stack.max_positions, config.d_model)
        result[name] = tables[key]
    return result


def _tensors(file: SafetensorsFile, config: ModelConfig, path: Path) -> dict[str, Array]:
    """The packed tensors, unread; the core checks their names and shapes against the config."""
    tensors = {}
    computed, stored = _computed(config), set(_STORED.values())
    for name, entry in file.entries.items():
        if name.startswith(("padding.", _TOKENIZER)):
            continue
        if entry.dtype not in stored:
            raise ModelError(
                f"{path} has the tensor {name!r} of {entry.dtype}, not one of "
                f"{', '.join(_STORED.values())}."
            )
        if entry.start % ALIGNMENT:
            raise ModelError(
                f"{path} has the tensor {name!r} at byte {entry.start}, which is not a multiple "
                f"of {ALIGNMENT}."
            )
        if name in computed:
            raise ModelError(f"{path} holds {name!r}, but its config says that it is computed.")
        tensors[name] = file.array(name)
    return tensors


def _tokenizer(file: SafetensorsFile, config: ModelConfig, path: Path) -> Tokenizer | None:
    if "tokenizer" not in file.metadata:
        return None
    description = _parse(file.metadata, "tokenizer", path)
    if (
        not isinstance(description, dict)
        or set(description) != {"kind", "settings"}
        or not isinstance(description["kind"], str)
        or not isinstance(description["settings"], dict)
    ):
        raise ModelError(f"the header of {path} has a tokenizer without kind and settings.")
    kind, settings = description["kind"], description["settings"]

    def open() -> Tokenizer:
        from ..tokenizer_files import tokenizer_from_blobs

        file.check_unchanged()
        try:
            tokenizer = tokenizer_from_blobs(kind, settings, _blobs(file, path))
            tokenizer.check_vocabulary(config.source_vocab_size, config.vocab_size)
        except ModelError as error:
            raise ModelError(f"in {path}, {error}") from error
        return tokenizer

    known: dict[str, Any] = {"kind": kind}
    if settings.get("language_rule") is None:
        known["language_rule"] = None
    deferred: Any = DeferredTokenizer(open, **known)
    return cast("Tokenizer", deferred)


def _blobs(file: SafetensorsFile, path: Path) -> dict[str, bytes]:
    """The tokenizer's files."""
    blobs = {}
    for name, entry in file.entries.items():
        if name.startswith(_TOKENIZER):
            if entry.dtype != "U8" or len(entry.shape) != 1:
                raise ModelError(f"{name!r} is of {entry.dtype} {list(entry.shape)}, not bytes.")
            blobs[name[len(_TOKENIZER) :]] = file.array(name).tobytes()
    return blobs
