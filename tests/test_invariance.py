"""The same bits whatever runs beside, on any number of threads, in any order, on any SIMD level."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import parity
import parity_families as families
import s2s_infer
from s2s_infer import _core
from s2s_infer.loaders import Checkpoint, load_checkpoint

SHAPE = parity.SMALL[1]  # 3 heads of 20: every vector has a remainder
SOURCES = parity.sources(SHAPE, 64, seed=4)
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam4": {"num_beams": 4, "num_return_sequences": 2, "no_repeat_ngram_size": 3},
    "sample": {"do_sample": True, "seed": 7, "top_k": 20, "top_p": 0.95, "num_return_sequences": 3},
}

Bits = list[list[tuple[list[int], bytes]]]


def load(**options: Any) -> s2s_infer.Model:
    return s2s_infer.load(parity.FIXTURES / SHAPE.name, **options)


def bits(results: list[s2s_infer.GenerationResult]) -> Bits:
    """Everything a result says, floats as their exact bits."""
    return [
        [
            (list(h.token_ids), np.array([h.score, *h.token_logprobs], np.float64).tobytes())
            for h in result.hypotheses
        ]
        for result in results
    ]


def generate(model: s2s_infer.Model, sources: list[list[int]], options: dict[str, Any]) -> Bits:
    return bits(model.generate_ids(sources, max_new_tokens=20, **options))


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8", "int4"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(dtype: str) -> dict[str, Bits]:
    """All 64 sources in one call, one thread, the plain C kernels."""
    with load(threads=1, isa="generic", dtype=dtype) as model:
        return {name: generate(model, SOURCES, options) for name, options in OPTIONS.items()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512vnni", "avx512amx", "neon"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_simd_level_and_threads(
    expected: dict[str, Bits], dtype: str, name: str, isa: str, threads: int
) -> None:
    if isa not in _core.ISA_NAMES:
        pytest.skip(f"this CPU has no {isa}")
    with load(threads=threads, isa=isa, dtype=dtype) as model:
        assert generate(model, SOURCES, OPTIONS[name]) == expected[name]


@pytest.mark.parametrize("name", list(OPTIONS))
def test_one_by_one(expected: dict[str, Bits], dtype: str, name: str) -> None:
    with load(dtype=dtype) as model:
        alone = [generate(model, [source], OPTIONS[name])[0] for source in SOURCES]
    assert alone == expected[name]


@pytest.mark.parametrize("name", list(OPTIONS))
def test_order_and_neighbours(expected: dict[str, Bits], dtype: str, name: str) -> None:
    rng = random.Random(5)
    order = [i for i in range(len(SOURCES)) for _ in range(rng.randrange(1, 3))]
    rng.shuffle(order)
    with load(dtype=dtype) as model:
        found = generate(model, [SOURCES[i] for i in order], OPTIONS[name])
    assert found == [expected[name][i] for i in order]


@pytest.mark.parametrize("name", list(OPTIONS))
def test_without_scores(expected: dict[str, Bits], dtype: str, name: str) -> None:
    """return_scores=False changes what is reported, and nothing else."""
    with load(dtype=dtype, threads=2) as model:
        results = model.generate_ids(
            SOURCES, max_new_tokens=20, return_scores=False, **OPTIONS[name]
        )
        found = [[h.token_ids for h in result.hypotheses] for result in results]
        assert found == [[ids for ids, _ in row] for row in expected[name]]
        best = [h for result in results for h in result.hypotheses]
        assert all(h.score is None and h.token_logprobs is None for h in best)
        [result] = model.generate_ids(SOURCES[:1], return_scores=False, return_alternatives=2)
        [whole] = model.generate_ids(SOURCES[:1], return_alternatives=2)
        assert result.alternatives == whole.alternatives
        assert whole.alternatives is not None and whole.token_logprobs is not None
        assert [step[0].logprob for step in whole.alternatives] == whole.token_logprobs


def test_encoder_alone_and_in_a_batch(dtype: str) -> None:
    with (
        load(threads=2, dtype=dtype) as model,
        load(threads=1, isa="generic", dtype=dtype) as plain,
    ):
        together = model.encode_ids(SOURCES)
        for source, states in zip(SOURCES, together, strict=True):
            assert states.shape == (len(source), SHAPE.d_model)
            assert states.tobytes() == plain.encode_ids([source])[0].tobytes()


def test_score_is_what_generate_reports(dtype: str) -> None:
    """Teacher forcing a greedy output gives its log-probabilities, bit for bit."""
    with load(dtype=dtype) as model:
        results = model.generate_ids(SOURCES, max_new_tokens=20)
        ended = [(s, r) for s, r in zip(SOURCES, results, strict=True) if r.finish_reason == "eos"]
        assert len(ended) >= 8
        scores = model.score([s for s, _ in ended], [r.token_ids for _, r in ended])
        for (_, result), score in zip(ended, scores, strict=True):
            assert list(score.token_logprobs) == list(result.token_logprobs)


@pytest.mark.parametrize("seed", [1, 2])
def test_sampling_repeats_with_its_seed_and_differs_with_another(
    seed: int, tiny: s2s_infer.Model
) -> None:
    sources = parity.sources(parity.SMALL[0], 8)

    def sample(seed: int) -> Bits:
        return bits(tiny.generate_ids(sources, do_sample=True, seed=seed, max_new_tokens=12))

    assert sample(seed) == sample(seed)
    assert sample(seed) != sample(seed + 10)


def new_model(checkpoint: Checkpoint) -> _core.Model:
    return _core.Model(checkpoint.config.to_core(), checkpoint.tensors)


def run_alone(
    model: _core.Model, source: list[int], prefix: list[int], options: dict[str, Any], room: int
) -> tuple[Any, ...]:
    """Everything that a session says, bits included, which reads `room` tokens at once."""
    session = _core.Session(
        model,
        None,
        max_rows=max(options.get("num_beams", 1), 1),
        max_source_positions=len(source),
        max_target_positions=len(prefix) + options.get("max_new_tokens", 4),
        max_encoder_tokens=max(room, len(source)),
    )
    session.submit(source, prefix, options)
    while (result := session.next_result()) is None:
        session.step()
    found: list[Any] = [result.n_steps]
    for h in result.hypotheses:
        arrays = (np.array(h.logprobs), h.alternative_ids, h.alternative_logprobs, h.alignment)
        found += [h.tokens, h.score, *(None if a is None else a.tobytes() for a in arrays)]
    return tuple(found)


READ: dict[str, dict[str, Any]] = {
    "prompt": {"n_prompt": 30, "max_new_tokens": 4},
    "prompt, nothing new": {"n_prompt": 30, "max_new_tokens": 0},
    "prefix": {"max_new_tokens": 4},
    "prefix behind a prompt, beams": {"n_prompt": 11, "max_new_tokens": 4, "num_beams": 3},
    "without scores": {"max_new_tokens": 4, "return_scores": False, "n_alternatives": 0},
    "scored": {"score_only": 1, "max_new_tokens": 0},
    "scored behind a prompt": {"score_only": 1, "max_new_tokens": 0, "n_prompt": 7},
}


@pytest.mark.parametrize("name", list(READ))
@pytest.mark.parametrize("family", ["llama", "deepseek_v3", "bart"])
def test_a_prefix_read_in_blocks_is_one_read_token_by_token(family: str, name: str) -> None:
    """How many tokens of a prefix fit a step depends on what runs beside it."""
    checkpoint = load_checkpoint(families.FIXTURES / family)
    has_encoder = checkpoint.config.has_encoder
    options = {"n_alternatives": 3, "return_alignment": int(has_encoder), **READ[name]}
    source, prefix = [5, 9] if has_encoder else [], [*range(4, 34)]
    model = new_model(checkpoint)
    whole = run_alone(model, source, prefix, options, 64)
    assert len(whole[1]) >= 29
    for room in (0, 3, 7, 31):
        assert run_alone(model, source, prefix, options, room) == whole


@pytest.mark.parametrize("num_beams", [1, 3])
def test_products_that_leave_zeros_out(dtype: str, num_beams: int) -> None:
    """A model begins with whole products, and leaves zeros out once it has met enough of them."""
    checkpoint = load_checkpoint(parity.FIXTURES / "relu-tied", dtype)
    biases = [name for name in checkpoint.tensors if name.endswith("ffn.up.bias")]
    for i, name in enumerate(biases):  # a ReLU with much, or next to nothing, left
        checkpoint.tensors[name] = checkpoint.tensors[name] - np.float32(0.2 if i % 2 else 0.6)
    options = {"max_new_tokens": 8, "num_beams": num_beams}
    sources = parity.sources(parity.SMALL[0], 24, seed=6)
    whole = [run_alone(new_model(checkpoint), source, [2], options, 64) for source in sources]
    assert len({tuple(run[1]) for run in whole}) > 4
    model = new_model(checkpoint)
    for _ in range(2):
        assert [run_alone(model, source, [2], options, 64) for source in sources] == whole


def test_a_forced_prefix_behind_a_prompt_has_log_probabilities() -> None:
    with s2s_infer.load(families.FIXTURES / "llama") as model:
        options: dict[str, Any] = {"max_new_tokens": 3, "return_alternatives": 2}
        (plain,) = model.generate_ids([[5, 6, 7, 8]], **options)
        forced = plain.token_ids[:2]
        (result,) = model.generate_ids([[5, 6, 7, 8]], prefix=forced, **options)
    assert result.token_ids[:3] == plain.token_ids
    assert result.token_logprobs[:3] == plain.token_logprobs
    assert result.alternatives is not None and plain.alternatives is not None
    assert result.alternatives[:3] == plain.alternatives
