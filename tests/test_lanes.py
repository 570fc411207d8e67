"""Many requests on several threads: sessions side by side, which a caller must not notice."""

from __future__ import annotations

import queue
import random
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

import parity
import s2s_infer
from s2s_infer import ModelError, OptionError, batching, lanes
from s2s_infer.model import Model
from s2s_infer.readers import Reader

CHECKPOINT = parity.FIXTURES / "relu-tied"
RNG = random.Random(5)
SOURCES = [[RNG.randrange(3, 49) for _ in range(RNG.randrange(1, 60))] + [0] for _ in range(300)]


@pytest.fixture(scope="module", params=[2, 5])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    with s2s_infer.load(CHECKPOINT, threads=request.param) as model:
        yield model


@pytest.fixture(scope="module")
def single() -> Iterator[Model]:
    with s2s_infer.load(CHECKPOINT, threads=1) as model:
        yield model


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of lanes that each call opens, in order."""
    numbers: list[int] = []
    original = lanes.Lanes.open

    def counting(self: lanes.Lanes, core: Any, pool: Any, sizes: Any, n: int) -> None:
        numbers.append(n)
        original(self, core, pool, sizes, n)

    monkeypatch.setattr(lanes.Lanes, "open", counting)
    return numbers


def n_lane_threads() -> int:
    return sum(thread.name.startswith("s2s_infer") for thread in threading.enumerate())


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"do_sample": True, "seed": 3}])
def test_lanes_change_no_bit_and_no_order(
    model: Model, single: Model, opened: list[int], options: dict[str, Any]
) -> None:
    expected = single.generate_ids(SOURCES, max_new_tokens=20, **options)
    assert set(opened) == {1}
    opened.clear()
    found = model.generate_ids(SOURCES, max_new_tokens=20, **options)
    assert max(opened) == model.info()["threads"]
    assert [result.input_ids for result in found] == SOURCES
    assert [result.to_dict() for result in found] == [result.to_dict() for result in expected]


def test_longer_inputs_of_later_windows_fit(model: Model, opened: list[int]) -> None:
    """No draining and opening anew where lengths vary little."""
    sources = [[3] * 20 + [0]] * batching.WINDOW + [[3] * 39 + [0]] * 40
    found = model.generate_ids(sources, max_new_tokens=4)
    assert [result.input_ids for result in found] == sources
    assert opened == [model.info()["threads"]]


def test_few_requests_share_one_session(
    model: Model, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_rows: list[int] = []
    original = lanes.open_session

    def counting(core: Any, pool: Any, sizes: batching.SessionSizes, *others: Any) -> Any:
        n_rows.append(sizes.max_rows)
        return original(core, pool, sizes, *others)

    monkeypatch.setattr(batching, "open_session", counting)
    few = SOURCES[: 2 * lanes.MIN_ROWS - 1]
    model.generate_ids(few, max_new_tokens=3)
    assert n_rows == [len(few)] and opened == []
    monkeypatch.setattr(lanes, "open_session", counting)
    assert len(list(model.iterate(few, max_new_tokens=3))) == len(few)
    assert opened == [1]
    assert n_lane_threads() == 0


def test_lanes_open_once_there_is_work_for_them(
    model: Model, single: Model, opened: list[int]
) -> None:
    class Trickle(Reader[list[int]]):
        """Five inputs, then all others at once."""

        taken = 0

        def take(self, limit: int, wait: bool) -> list[list[int]] | None:
            first = self.taken
            self.taken += 5 if not first else limit
            return SOURCES[first : self.taken] or None

        def where(self, index: int) -> str:
            return str(index)

    found = list(model.iterate(Trickle(), max_new_tokens=12))
    assert opened[0] == 1 and opened[-1] == model.info()["threads"]
    expected = single.generate_ids(SOURCES, max_new_tokens=12)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]


def test_inputs_that_come_while_lanes_work_do_not_wait_for_a_result(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = threading.Event()

    class Later(Reader[list[int]]):
        """Work for all lanes; nothing for a while; one more; the end."""

        given: Iterator[list[list[int]] | None] = iter([SOURCES[:80], [], SOURCES[80:81], None])

        def take(self, limit: int, wait: bool) -> list[list[int]] | None:
            taken = next(self.given)
            if taken == SOURCES[80:81]:
                come.set()
            return taken

        def where(self, index: int) -> str:
            return str(index)

    original = lanes.Lane.advance

    def waiting(self: lanes.Lane, *arguments: Any) -> Any:
        assert come.wait(20), "nobody asked for more inputs while the lanes worked"
        return original(self, *arguments)

    monkeypatch.setattr(lanes.Lane, "advance", waiting)
    found = list(model.iterate(Later(), max_new_tokens=4))
    assert [result.input_ids for result in found] == SOURCES[:81]


def test_a_text_from_a_queue_is_answered_before_the_next_comes(
    model: Model, opened: list[int]
) -> None:
    waiting: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
    results = model.iterate(waiting, max_new_tokens=4)
    for source in ([3, 0], [3] * 50 + [0]):  # sessions have room for longer ones
        waiting.put(source)
        assert next(results).input_ids == source
    assert opened == [1]
    for source in SOURCES[:100]:
        waiting.put(source)
    assert [next(results).input_ids for _ in range(100)] == SOURCES[:100]
    assert opened == [1, model.info()["threads"]]
    for source in SOURCES[100:103]:
        waiting.put(source)
        assert next(results).input_ids == source
    waiting.put(None)
    assert list(results) == []


def test_a_window_of_one_never_waits_for_an_input_before_it_gives_a_result(model: Model) -> None:
    n_results = 0

    def sources() -> Iterator[list[int]]:
        for i, source in enumerate(SOURCES[:5]):
            assert n_results == i
            yield source

    for result in model.iterate(sources(), window=1, max_new_tokens=4):
        assert result.input_ids == SOURCES[n_results]
        n_results += 1
    assert n_results == 5


def test_an_error_of_an_input_comes_after_the_results_before_it(model: Model) -> None:
    results = model.iterate([*SOURCES[:200], [999]], max_new_tokens=4)
    seen = []
    with pytest.raises(OptionError, match=r"texts\[200\] holds the token id 999"):
        for result in results:
            seen.append(result.input_ids)
    assert seen == SOURCES[:200]
    assert n_lane_threads() == 0


def test_an_error_of_a_step_ends_the_call(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    original = lanes.Lane.advance

    def broken(self: lanes.Lane, *arguments: Any) -> Any:
        original(self, *arguments)
        raise ModelError("damaged")

    monkeypatch.setattr(lanes.Lane, "advance", broken)
    with pytest.raises(ModelError, match="damaged"):
        model.generate_ids(SOURCES, max_new_tokens=4)
    assert n_lane_threads() == 0


def test_a_call_that_is_left_leaves_no_threads(model: Model) -> None:
    results = model.iterate(SOURCES, max_new_tokens=60, num_beams=8)  # work for a second
    next(results)
    assert n_lane_threads() > 0
    results.close()
    assert n_lane_threads() == 0
    assert len(model.generate_ids(SOURCES, max_new_tokens=2)) == len(SOURCES)


def test_threads_are_divided_among_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    original = lanes.open_session

    def counting(core: Any, pool: Any, *others: Any) -> Any:
        given.append(1 if pool is None else pool.n_threads)
        return original(core, pool, *others)

    monkeypatch.setattr(lanes, "open_session", counting)
    with s2s_infer.load(CHECKPOINT, threads=5) as model:
        model.generate_ids(SOURCES[: 2 * lanes.MIN_ROWS], max_new_tokens=2)
    assert given == [3, 2]


def test_another_lane_takes_the_last_job() -> None:
    """Between a look at the list and the taking from it, another lane may have emptied it."""

    class Emptied(deque[Any]):
        def __bool__(self) -> bool:
            return True

    with lanes.Lanes() as some:
        some._todo = Emptied()
        some._fill(lanes.Lane(None, batching.needed_sizes([])))  # type: ignore[arg-type]


def run_script(*lines: str) -> str:
    """What a process prints that has a model of two threads and `sources`, endless."""
    begin = (
        "import itertools, s2s_infer, threading, time",
        f"model = s2s_infer.load({str(CHECKPOINT)!r}, threads=2)",
        "sources = itertools.repeat([3] * 59 + [0])",
        "options = dict(num_beams=8, max_new_tokens=60, eos_token_id=1, suppress_tokens=[1])",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join((*begin, *lines))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not done.stderr
    return done.stdout


def test_a_process_ends_while_an_iterator_is_open() -> None:
    """Lanes have work for seconds then, which nobody will read."""
    script = (
        "results = model.iterate(sources, **options)",
        "next(results)",
        "at_exit = time.perf_counter()",
        "import atexit",  # its functions run when all threads have ended
        "atexit.register(lambda: print(time.perf_counter() - at_exit))",
    )
    assert float(run_script(*script)) < 2


def test_a_thread_goes_on_after_the_main_thread() -> None:
    script = (
        "def run():",
        "    threading.main_thread().join()",
        "    print(len(model.generate_ids([[3, 4, 0]] * 300)))",
        "threading.Thread(target=run).start()",
    )
    assert run_script(*script) == "300\n"
