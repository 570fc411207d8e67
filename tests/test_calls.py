"""What calls of the same options share, and what they must not."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import parity
import s2s_infer
from s2s_infer import OptionError, _core, calls
from s2s_infer.calls import call_of
from s2s_infer.model import Model

CHECKPOINT = parity.FIXTURES / "relu-tied"
SOURCE = [5, 9, 14, 0]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with s2s_infer.load(CHECKPOINT, threads=1) as model:
        yield model


def test_calls_of_the_same_options_share_what_was_resolved(model: Model) -> None:
    kept: dict[Any, calls.Call] = {}
    engine = model._open()
    first = call_of(kept, engine, {"num_beams": 2, "max_new_tokens": 5})
    assert call_of(kept, engine, {"num_beams": 2, "max_new_tokens": 5}) is first
    assert call_of(kept, engine, {"num_beams": 3, "max_new_tokens": 5}) is not first
    assert first.job(SOURCE, [], "x").options is first.job([7, 0], [], "x").options
    assert first.job(SOURCE, [4], "x").options is not first.job(SOURCE, [], "x").options


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ({"num_beams": 1}, {"num_beams": True}),
        ({"do_sample": False}, {"do_sample": 0}),
        ({"top_k": 2}, {"top_k": 2.0}),
        ({"length_penalty": 1.0}, {"length_penalty": True}),
        ({"suppress_tokens": [1]}, {"suppress_tokens": [True]}),
        ({"suppress_tokens": (1,)}, {"suppress_tokens": (True,)}),
    ],
)
def test_equal_values_of_other_types_are_checked(
    model: Model, right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    for _ in range(2):
        assert model.generate_ids([SOURCE], max_new_tokens=3, **right)
        with pytest.raises(OptionError, match=next(iter(wrong))):
            model.generate_ids([SOURCE], max_new_tokens=3, **wrong)


def test_a_list_of_options_may_change_between_calls(model: Model) -> None:
    (free,) = model.generate_ids([SOURCE], max_new_tokens=4)
    suppressed = [free.token_ids[0]]
    (other,) = model.generate_ids([SOURCE], max_new_tokens=4, suppress_tokens=suppressed)
    assert other.token_ids[0] != free.token_ids[0]
    suppressed[0] = other.token_ids[0]
    (third,) = model.generate_ids([SOURCE], max_new_tokens=4, suppress_tokens=suppressed)
    assert third.token_ids[0] == free.token_ids[0]


def test_every_call_without_a_seed_draws_one(model: Model) -> None:
    seeds = {model.generate_ids([SOURCE], do_sample=True)[0].seed for _ in range(5)}
    assert len(seeds) == 5
    assert {model.generate_ids([SOURCE], do_sample=True, seed=3)[0].seed for _ in range(2)} == {3}


def test_what_is_kept_is_bounded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_KEPT", 4)
    kept: dict[Any, calls.Call] = {}
    found = [
        call_of(kept, model._open(), {"max_new_tokens": n}).config.max_new_tokens
        for n in (*range(1, 12), *range(1, 12))
    ]
    assert found == [*range(1, 12), *range(1, 12)]
    assert len(kept) <= 4
    call = call_of(kept, model._open(), {})
    for n in range(1, 12):
        call.job([7] * n, [], "x")
    assert len(call._core_options) <= 4


def test_closing_lets_go_of_what_calls_kept() -> None:
    model = s2s_infer.load(CHECKPOINT, threads=1)
    model.generate_ids([SOURCE], max_new_tokens=3)
    engine = weakref.ref(model._open())
    gc.disable()
    try:
        model.close()
        assert engine() is None
    finally:
        gc.enable()


def test_threads_may_make_calls_of_all_options_at_once(model: Model) -> None:
    options = [{"max_new_tokens": n, "num_beams": b} for n in range(1, 6) for b in (1, 2)]
    expected = [model.generate_ids([SOURCE], **option)[0].token_ids for option in options]
    wrong: list[Any] = []

    def run() -> None:
        for _ in range(5):
            found = [model.generate_ids([SOURCE], **option)[0].token_ids for option in options]
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "values",
    [[True], [1.0], [np.int64(1)], [10], [-1], [1 << 70], [-1 << 70], ["1"], (1,), "1", None, {1}],
)
def test_what_is_no_plain_list_of_ids(values: Any) -> None:
    assert _core.plain_ids(values, 10) is None


def test_plain_ids_are_a_copy() -> None:
    values = [0, 9, 5]
    ids = _core.plain_ids(values, 10)
    assert ids == values and ids is not values
    assert _core.plain_ids([], 10) == []


def test_steps_end_with_the_work_or_the_time(model: Model) -> None:
    engine = model._open()
    job = call_of({}, engine, {"max_new_tokens": 40, "min_new_tokens": 40}).job(SOURCE, [], "x")
    session = _core.Session(engine.core, engine.pool, 1, len(SOURCE), 41, len(SOURCE))
    session.submit(job.source, job.prefix, job.options)
    assert session.step(1 << 30, 0.0) == 1  # one step, at least
    assert session.next_result() is None
    start = time.monotonic()
    assert session.step(1 << 30) == 1  # not yet handed out
    assert time.monotonic() - start < 10  # a step without work takes some nanoseconds
    result = session.next_result()
    assert result is not None and result.n_steps == 40
    assert session.step(1 << 30) == 0


def test_results_have_all_their_fields(model: Model) -> None:
    (result,) = model.generate_ids([SOURCE], max_new_tokens=3)
    assert {*vars(result)} == {f.name for f in fields(result)}
    (hypothesis,) = result.hypotheses
    assert repr(hypothesis)  # reads what is made on demand
    assert {*vars(hypothesis)} - {"_tokenizer"} == {f.name for f in fields(hypothesis)}
    assert pickle.loads(pickle.dumps(result)) == result
