"""Opening a model: the file, how its numbers are stored, what it runs on."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ModelError, OptionError
from .isa import choose_isa
from .loaders import load_checkpoint
from .model import Model
from .threads import choose_threads

DTYPES = ("auto", "float32", "bfloat16", "int8", "int4")
KV_DTYPES = ("float32", "bfloat16")


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    isa: str | None = None,
    kv_dtype: str | None = None,
) -> Model:
    """Open a model: a Hugging Face directory or a ``*.s2s`` file.

    path: None opens the model that comes with the package (Chinese <-> English).
    dtype: how matrices are stored: "float32", "bfloat16" (arithmetic stays float32), "int8"
        (one scale per output; rows are quantized on the way, products are exact integers), "int4"
        (matrices of layers in four bits, with a step for 32 inputs; embeddings in int8), or
        "auto": as a ``*.s2s`` file has them, float32 for a directory.
    threads: None: the cores that this process may use.
    isa: SIMD level ("generic", "avx2", "avx512", ...); None: that of the environment variable
        S2S_ISA, else the best of this CPU.
    kv_dtype: how the keys and values of attention are kept from step to step: "float32", or
        "bfloat16", which halves their memory and what a step reads of them; None: bfloat16 for an
        int8 or int4 model, else float32.  On the built-in model in float32 the rounding moves
        logits by 0.012 at most (they reach 15), and changes 2 of 300 greedy outputs.
    Results do not depend on threads and isa, to the last bit.
    Raises ModelError if the model cannot be read, OptionError for a wrong option.
    """
    if dtype not in DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    if kv_dtype is not None and kv_dtype not in KV_DTYPES:
        raise OptionError(f"kv_dtype must be one of {', '.join(KV_DTYPES)}, not {kv_dtype!r}.")
    choose_threads(threads)  # a wrong option is an error before a large file is read
    choose_isa(isa)
    path = bundled_model() if path is None else Path(path)
    checkpoint = load_checkpoint(path, dtype=dtype)
    model = Model(checkpoint, threads=threads, isa=isa, kv_dtype=kv_dtype)
    model._reopen = (path, dtype, threads, isa, kv_dtype)
    return model


def bundled_model() -> Path:
    """The model file that comes with the package.  Raises ModelError if there is none."""
    models = sorted((Path(__file__).parent / "models").glob("*.s2s"))
    if not models:
        raise ModelError("this installation of s2s-infer has no built-in model: name one.")
    return models[0]


def reopen(
    path: Path, dtype: str, threads: int | None, isa: str | None, kv_dtype: str | None
) -> Model:
    """What the pickle of a Model calls."""
    return load(path, dtype=dtype, threads=threads, isa=isa, kv_dtype=kv_dtype)
