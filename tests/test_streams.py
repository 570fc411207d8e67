"""Outputs as they come: streams of one, iterators over any number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from checkpoint_files import SHORT_TEXTS as TEXTS
from s2s_infer import (
    GenerationResult,
    InputTooLongError,
    Model,
    OptionError,
    _core,
    batching,
)


def same(a: GenerationResult, b: GenerationResult) -> bool:
    return a.to_dict() == b.to_dict()


# ---- Streams ----


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 4},
        {"num_beams": 1, "do_sample": True, "seed": 3},
        {"num_beams": 1, "target_prefix": "天气"},
    ],
)
def test_pieces_of_a_stream_join_to_the_text(text_model: Model, options: dict[str, Any]) -> None:
    n_pieces = 0
    for text in TEXTS:
        stream = text_model.stream(text, max_new_tokens=30, **options)
        pieces = []
        while True:
            try:
                pieces.append(next(stream))
            except StopIteration as stop:
                result = stop.value
                break
        (expected,) = text_model.generate([text], max_new_tokens=30, **options)
        assert "".join(pieces) == expected.text
        assert same(result, expected)
        assert all(pieces)
        n_pieces += len(pieces)
    assert n_pieces > len(TEXTS)


def test_a_stream_gives_out_text_before_the_end(text_model: Model) -> None:
    stream = text_model.stream("good day", num_beams=1, max_new_tokens=60, min_new_tokens=60)
    first = next(stream)
    assert first
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_checks_its_arguments_at_once(text_model: Model) -> None:
    with pytest.raises(OptionError, match="unknown option"):
        text_model.stream("good", beams=3)
    with pytest.raises(OptionError, match="text must be a string, not int"):
        text_model.stream(3)  # type: ignore[arg-type]


# ---- Any number of inputs ----


def test_iterate_gives_the_results_of_generate(text_model: Model) -> None:
    texts = TEXTS * 40
    expected = text_model.generate(texts, max_new_tokens=6)
    for window in (1, 7, 256):
        results = list(text_model.iterate(iter(texts), window=window, max_new_tokens=6))
        assert all(map(same, results, expected)) and len(results) == len(expected)


def test_iterate_reads_no_more_than_it_needs(tiny: Model) -> None:
    n_read = 0

    def endless() -> Iterator[list[int]]:
        nonlocal n_read
        while True:
            n_read += 1
            yield [3 + n_read % 20, 4, 0]

    results = tiny.iterate(endless(), window=16, max_new_tokens=4)
    for _ in range(100):
        next(results)
    assert n_read <= 100 + 10 * 16
    results.close()


def test_iterate_copes_with_inputs_that_grow(tiny: Model) -> None:
    limit = tiny.config.encoder.max_positions
    sources = [[3 + i % 40] * (1 + i % limit) for i in range(0, 200, 7)]
    sources.sort(key=len)
    results = list(tiny.iterate(sources, window=4, max_new_tokens=3))
    expected = tiny.generate_ids(sources, max_new_tokens=3)
    assert all(map(same, results, expected))


def test_a_wrong_input_is_told_after_the_results_before_it(tiny: Model) -> None:
    good = [[3, 4, 0]] * 10

    def failing() -> Iterator[list[int]]:
        yield from good
        raise RuntimeError("the disk is gone")

    too_long = [3] * (tiny.config.encoder.max_positions + 1)
    for sources, error, words in (
        ([*good, too_long, [5, 0]], InputTooLongError, r"texts\[10\]"),
        ([*good, [77, 0]], OptionError, r"texts\[10\] holds the token id 77"),
        (failing(), RuntimeError, "disk"),
    ):
        for window in (3, 256):
            if window == 3 and not isinstance(sources, list):
                continue
            results = tiny.iterate(sources, window=window, max_new_tokens=3)
            received = []
            with pytest.raises(error, match=words):
                for result in results:
                    received.append(result)
            assert len(received) == len(good)


def test_one_model_serves_several_threads(text_model: Model) -> None:
    expected = text_model.generate(TEXTS, num_beams=2, max_new_tokens=20)
    failures: list[object] = []

    def work() -> None:
        for _ in range(5):
            results = text_model.generate(TEXTS, num_beams=2, max_new_tokens=20)
            if not all(map(same, results, expected)):
                failures.append(results)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_session_sizes_stay_within_the_memory_budget(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def max_rows(**options: Any) -> int:
        filled = _core.Options({"max_new_tokens": 64, **options})
        job = batching.Job([3] * 64, [49], filled, n_rows=4)
        return batching.session_sizes(tiny.config, [job], 10_000).max_rows

    most = batching.MAX_ROWS
    assert max_rows() == most
    monkeypatch.setattr(batching, "MAX_SESSION_BYTES", 4 << 20)
    assert 4 < max_rows(n_alternatives=50) < max_rows(return_alignment=True) < max_rows() < most
    monkeypatch.setattr(batching, "MAX_SESSION_BYTES", 1)
    assert max_rows() == 4  # what one request needs
