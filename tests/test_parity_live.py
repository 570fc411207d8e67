"""The engine against transformers, on random checkpoints of many shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity
import s2s_infer

pytestmark = pytest.mark.reference

SHAPES = {shape.name: shape for shape in (*parity.SMALL, *parity.LARGE)}
N_SOURCES = 30
N_FORWARD = 30

Pair = tuple[parity.Shape, Any, s2s_infer.Model]


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """The same random checkpoint in transformers and in the engine."""
    shape = SHAPES[request.param]
    folder: Path = tmp_path_factory.mktemp(shape.name)
    parity.make_checkpoint(shape, folder)
    with s2s_infer.load(folder) as model:
        yield shape, parity.open_reference(folder), model


def check_generate(
    pair: Pair, options: dict[str, Any], prefix: list[int] | None, name: str
) -> None:
    shape, reference, model = pair
    sources = parity.sources(shape, N_SOURCES, seed=2)
    expected = parity.reference_generate(reference, sources, options, prefix)
    found = parity.engine_generate(model, sources, options, prefix)
    assert parity.compare(found, expected, f"{shape.name}, {name}") <= 1


@pytest.mark.parametrize("name", list(parity.OPTIONS))
def test_hypotheses_and_scores(pair: Pair, name: str) -> None:
    check_generate(pair, parity.OPTIONS[name], None, name)


@pytest.mark.parametrize("prefix", parity.PREFIXES, ids=str)
@pytest.mark.parametrize("name", list(parity.PREFIX_OPTIONS))
def test_forced_prefix(pair: Pair, name: str, prefix: list[int]) -> None:
    check_generate(pair, parity.OPTIONS[name], prefix, name)


def test_encoder_output_and_logits(pair: Pair) -> None:
    shape, reference, model = pair
    for i, source in enumerate(parity.sources(shape, N_FORWARD, seed=3)):
        expected = parity.reference_forward(reference, source, parity.target(shape, i))
        found = parity.engine_forward(model, source, parity.target(shape, i))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=parity.TOLERANCE)
