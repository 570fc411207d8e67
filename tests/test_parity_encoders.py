"""BERT, RoBERTa and DistilBERT: hidden states and heads are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity_encoders as parity
import s2s_infer
from s2s_infer import _core

SMALL = {shape.name: shape for shape in parity.SMALL}
ALL = {f"{shape.name}-{i}": shape for i, shape in enumerate((*parity.SMALL, *parity.LARGE))}


@pytest.mark.parametrize("name", list(SMALL))
def test_goldens(name: str) -> None:
    shape = SMALL[name]
    expected = dict(np.load(parity.FIXTURES / name / "forward.npz"))
    n = sum(key.startswith("states.") for key in expected)
    with s2s_infer.load(parity.FIXTURES / name) as model:
        found = parity.engine(model, parity.sequences(shape, n))
    ours = {f"{key}.{i}": array for i, some in enumerate(found) for key, array in some.items()}
    assert n and set(expected) <= set(ours)
    for key, array in expected.items():
        assert parity.error(ours[key], array) < parity.TOLERANCE, key


@pytest.mark.reference
@pytest.mark.parametrize("name", list(ALL))
def test_live(name: str, tmp_path: Path) -> None:
    shape = ALL[name]
    parity.make_checkpoint(shape, tmp_path)
    inputs = parity.sequences(shape, 40, seed=2)
    expected = parity.reference(tmp_path, inputs)
    with s2s_infer.load(tmp_path) as model:
        found = parity.engine(model, inputs)
    keys = {"states"}
    if "For" in shape.architecture:
        keys.add("logits")
    elif shape.family != "DistilBert":
        keys.add("pooler")
    for ours, theirs in zip(found, expected, strict=True):
        assert keys <= set(theirs) <= set(ours)
        for key, array in theirs.items():
            assert parity.error(ours[key], array) < parity.TOLERANCE, key


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["BertForSequenceClassification-24", "RobertaForMaskedLM-24"])
def test_same_bits_alone_and_together(name: str, dtype: str) -> None:
    path, shape = parity.FIXTURES / name, SMALL[name]
    inputs = parity.sequences(shape, 150, seed=3)

    def bits(results: list[dict[str, Any]]) -> list[dict[str, bytes]]:
        return [{key: array.tobytes() for key, array in some.items()} for some in results]

    with s2s_infer.load(path, dtype=dtype, isa="generic", threads=1) as model:
        expected = bits(parity.engine(model, inputs))
        assert bits(parity.engine(model, inputs[::-1])) == expected[::-1]
        for i in (0, 7, 80):
            assert bits(parity.engine(model, inputs[i : i + 1])) == expected[i : i + 1]
    for isa in _core.ISA_NAMES:
        with s2s_infer.load(path, dtype=dtype, isa=isa, threads=2) as model:
            assert bits(parity.engine(model, inputs)) == expected, isa
