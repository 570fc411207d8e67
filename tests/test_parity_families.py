"""Every encoder-decoder family gives what transformers gives: by goldens, and live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity
import parity_families as families
import s2s_infer
from s2s_infer import encoding

SHAPES = {shape.name: shape for shape in (*families.SMALL, *families.LARGE)}
RELATIVE = 1e-4
N_LIVE = 50

Pair = tuple[families.Shape, Any, s2s_infer.Model, Path]


def assert_near(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within RELATIVE of the largest element."""
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= RELATIVE * np.abs(theirs).max()


@pytest.fixture(scope="module", params=[shape.name for shape in families.SMALL])
def golden(request: pytest.FixtureRequest) -> Iterator[tuple[families.Shape, s2s_infer.Model]]:
    with s2s_infer.load(families.FIXTURES / request.param) as model:
        yield SHAPES[request.param], model


def expected_of(shape: families.Shape) -> dict[str, Any]:
    file = families.FIXTURES / shape.name / "generate.json"
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return result


def test_hypotheses_and_scores_equal_the_goldens(
    golden: tuple[families.Shape, s2s_infer.Model],
) -> None:
    shape, model = golden
    expected = expected_of(shape)
    for case in expected["cases"]:
        options = families.decoding(shape, case["options"])
        found = parity.engine_generate(model, expected["sources"], options)
        hypotheses = [[(ids, score) for ids, score in h] for h in case["hypotheses"]]
        assert parity.compare(found, hypotheses, f"{shape.name}, {case['name']}") == 0


def test_encoder_output_and_logits_equal_the_goldens(
    golden: tuple[families.Shape, s2s_infer.Model],
) -> None:
    shape, model = golden
    arrays = dict(np.load(families.FIXTURES / shape.name / "forward.npz"))
    sources = expected_of(shape)["sources"]
    assert arrays
    for name, expected in arrays.items():
        what, i = name.split(".")
        target = families.target(shape, int(i))
        found = families.engine_forward(model, shape, sources[int(i)], target)
        assert_near(found[what], expected)


def test_encoding_alone_gives_the_encoder_output_of_a_session(
    golden: tuple[families.Shape, s2s_infer.Model],
) -> None:
    shape, model = golden
    if shape.continues:
        pytest.skip("a decoder alone")
    rows = families.sources(shape, 8)
    inputs = [encoding.Input(ids, None) for ids in rows]
    found = [array for _, chunk in encoding.hidden_states(model._open(), inputs) for array in chunk]
    for ids, states in zip(rows, found, strict=True):
        expected = model.trace(ids, [shape.eos])["encoder.output"]
        assert states.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_native_file_computes_the_same(
    golden: tuple[families.Shape, s2s_infer.Model], dtype: str, tmp_path: Path
) -> None:
    from s2s_infer.formats.native import save_native
    from s2s_infer.loaders import load_checkpoint

    shape, _ = golden
    folder = families.FIXTURES / shape.name
    save_native(load_checkpoint(folder, dtype), tmp_path / "model.s2s")
    sources = families.sources(shape, 5)
    options = families.decoding(shape, {"num_beams": 3})
    with (
        s2s_infer.load(folder, dtype=dtype) as model,
        s2s_infer.load(tmp_path / "model.s2s") as native,
    ):
        assert native.info()["dtype"] == dtype
        assert parity.engine_generate(native, sources, options) == parity.engine_generate(
            model, sources, options
        )


def test_scores_alignments_and_n_best(golden: tuple[families.Shape, s2s_infer.Model]) -> None:
    """A hypothesis scored as a target has the log-probabilities with which it was generated."""
    shape, model = golden
    source = families.sources(shape, 3)[2]
    options = {"eos_token_id": shape.eos, "num_beams": 4, "num_return_sequences": 4}
    options["return_alignment"] = not shape.continues
    result = model.generate_ids([source], max_new_tokens=12, forced_eos_token_id=(), **options)[0]
    assert len(result.hypotheses) == 4
    for hypothesis in result.hypotheses:
        alignment = hypothesis.alignment
        if not shape.continues:
            assert alignment is not None
            assert alignment.shape == (len(hypothesis.token_logprobs), len(source))
            np.testing.assert_allclose(alignment.sum(1), 1, atol=1e-5)
        if hypothesis.finish_reason == "eos":
            score = model.score([source], [hypothesis.token_ids])[0]
            np.testing.assert_allclose(
                score.token_logprobs, hypothesis.token_logprobs, rtol=0, atol=1e-5
            )


# ---- live ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """The same random checkpoint in transformers and in the engine."""
    shape = SHAPES[request.param]
    folder: Path = tmp_path_factory.mktemp(shape.name)
    families.make_checkpoint(shape, folder)
    with s2s_infer.load(folder) as model:
        yield shape, families.open_reference(shape, folder), model, folder


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beams", [1, 4])
def test_live_hypotheses_and_scores(pair: Pair, beams: int) -> None:
    shape, reference, model, _ = pair
    sources, options = families.sources(shape, N_LIVE, seed=2), {"num_beams": beams}
    expected = families.reference_generate(reference, shape, sources, options)
    found = parity.engine_generate(model, sources, families.decoding(shape, options))
    assert parity.compare(found, expected, f"{shape.name}, {beams} beams") == 0


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_live_encoder_output_and_logits(pair: Pair) -> None:
    shape, reference, model, _ = pair
    for i, source in enumerate(families.sources(shape, N_LIVE, seed=3)):
        target = families.target(shape, i)
        expected = families.reference_forward(reference, shape, source, target)
        found = families.engine_forward(model, shape, source, target)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert_near(found[name], array)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.95), ("int8", 0.9)])
def test_live_agreement_of_smaller_weights(pair: Pair, dtype: str, least: float) -> None:
    """The best token of each step, given the same tokens before it, is that of float32."""
    shape, _, model, folder = pair
    same = n = 0
    with s2s_infer.load(folder, dtype=dtype) as smaller:
        for i, source in enumerate(families.sources(shape, N_LIVE, seed=4)):
            best = [
                families.engine_forward(m, shape, source, families.target(shape, i))[
                    "logits"
                ].argmax(1)
                for m in (model, smaller)
            ]
            same += int((best[0] == best[1]).sum())
            n += len(best[0])
    print(f"{shape.name}, {dtype}: {same}/{n} best tokens are those of float32")
    assert same >= least * n
