"""Where only the largest logit is wanted, four-bit bounds leave out most of an int8 output matrix:
the tokens are those of all logits, on weights of every kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s2s_infer
from checkpoint_files import raw_file
from random_checkpoint import D, tensors, write_checkpoint
from s2s_infer import _core

VOCAB_SIZE = 3001
KINDS = ["normal", "equal", "ties", "zero rows", "outliers", "scales", "bias"]


def make_embeddings(kind: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(8)
    weight = rng.normal(0, 0.4, (VOCAB_SIZE, D)).astype("<f4")
    if kind == "equal":
        weight[:] = weight[7]
    elif kind == "ties":  # each row eighty times, the first of them wins
        weight = weight[rng.integers(0, VOCAB_SIZE // 80, VOCAB_SIZE)]
    elif kind == "zero rows":
        weight[rng.random(VOCAB_SIZE) < 0.9] = 0
    elif kind == "outliers":
        weight[rng.random(weight.shape) < 0.05] *= 60
    elif kind == "scales":
        weight *= np.exp(rng.normal(0, 4, (VOCAB_SIZE, 1))).astype("<f4")
    return weight


def make_model(folder: Path, kind: str) -> Path:
    write_checkpoint(folder, "bart", VOCAB_SIZE)
    stored = tensors("bart", VOCAB_SIZE)
    stored["model.shared.weight"] = ("F32", make_embeddings(kind))
    if kind == "bias":
        bias = np.random.default_rng(9).normal(0, 3, (1, VOCAB_SIZE)).astype("<f4")
        stored["final_logits_bias"] = ("F32", bias)
    (folder / "model.safetensors").write_bytes(raw_file(stored))
    generation = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | generation))
    return folder


@pytest.mark.parametrize("isa", [name for name in _core.ISA_NAMES if name != "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_all_logits(tmp_path: Path, kind: str, isa: str) -> None:
    path = make_model(tmp_path / "model", kind)
    rng = np.random.default_rng(1)
    sources = [rng.integers(3, VOCAB_SIZE, n).tolist() for n in (1, 5, 9, 20, 3, 7)]
    cases: list[dict[str, Any]] = [
        {},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": list(range(4, VOCAB_SIZE, 3))},
        {"min_new_tokens": 12},
        {"forced_bos_token_id": 9},
    ]
    with s2s_infer.load(path, dtype="int8", isa=isa, threads=2) as model:
        for _ in range(2):  # before and after the copy is made
            for options in cases:
                for n in (1, 3, 6):
                    some, whole = (
                        model.generate_ids(
                            sources[:n], max_new_tokens=12, return_scores=scored, **options
                        )
                        for scored in (False, True)
                    )
                    assert [r.token_ids for r in some] == [r.token_ids for r in whole], options
