"""The engine gives what transformers gave: comparison with the committed goldens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import parity
import s2s_infer


@pytest.fixture(scope="module", params=[shape.name for shape in parity.SMALL])
def golden(request: pytest.FixtureRequest) -> Iterator[tuple[parity.Shape, s2s_infer.Model]]:
    shape = next(s for s in parity.SMALL if s.name == request.param)
    with s2s_infer.load(parity.FIXTURES / shape.name) as model:
        yield shape, model


def test_hypotheses_and_scores_equal_the_goldens(
    golden: tuple[parity.Shape, s2s_infer.Model],
) -> None:
    shape, model = golden
    expected = json.loads((parity.FIXTURES / shape.name / "generate.json").read_text("utf-8"))
    ties = n = 0
    for case in expected["cases"]:
        found = parity.engine_generate(model, expected["sources"], case["options"], case["prefix"])
        hypotheses = [[(ids, score) for ids, score in h] for h in case["hypotheses"]]
        ties += parity.compare(found, hypotheses, f"{shape.name}, {case['name']}")
        n += sum(map(len, hypotheses))
    assert n >= 300
    assert ties <= n // 200


def test_encoder_output_and_logits_equal_the_goldens(
    golden: tuple[parity.Shape, s2s_infer.Model],
) -> None:
    shape, model = golden
    expected: dict[str, Any] = dict(np.load(parity.FIXTURES / shape.name / "forward.npz"))
    sources = json.loads((parity.FIXTURES / shape.name / "generate.json").read_text("utf-8"))[
        "sources"
    ]
    for i in range(len(expected) // 2):
        encoder, logits = parity.engine_forward(model, sources[i], parity.target(shape, i))
        np.testing.assert_allclose(encoder, expected[f"encoder.{i}"], rtol=0, atol=parity.TOLERANCE)
        np.testing.assert_allclose(logits, expected[f"logits.{i}"], rtol=0, atol=parity.TOLERANCE)
