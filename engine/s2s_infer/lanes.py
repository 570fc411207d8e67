"""Sessions side by side, each stepped by a thread of its own: how many requests use many cores.

Threads that share every product of one session meet at the end of each, some hundred times a step.
Lanes never meet: a core has its own requests, its own caches, and only hands in results.  It costs
rows, since a step of few rows costs about as much as one of a few more; `n_lanes` is the rule.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from . import _core
from .threads import shared_pool

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from .batching import Job, SessionSizes

MIN_ROWS = 16
"""Decoder rows that a lane has work for, at least: up to as many, a product costs little more than
reading its weights once."""
SECONDS = 0.005
"""A lane makes steps for about as long, at least one, before it hands in results."""
MAX_STEPS = 16
"""And at most as many."""


def n_lanes(n_threads: int, n_rows: int) -> int:
    """Lanes for n_threads threads and requests of n_rows rows in all, at least 1."""
    return max(1, min(n_threads, n_rows // MIN_ROWS))


def open_session(
    model: _core.Model,
    pool: _core.Pool | None,
    sizes: SessionSizes,
    prompt: _core.Prompt | None = None,
) -> _core.Session:
    """A session of these sizes, whose requests may begin with the prompt."""
    return _core.Session(model, pool, **sizes._asdict(), prompt=prompt)


class Lane:
    """A session and what runs in it."""

    def __init__(
        self, session: _core.Session, sizes: SessionSizes, executor: Executor | None
    ) -> None:
        """executor: runs the steps; None: `finish` does."""
        self._session = session
        self._max_rows = sizes.max_rows
        self._executor = executor
        self._running: dict[int, Job] = {}  # by request id
        self._n_rows = 0
        self._n_steps = 1
        self.future: Future[None] | None = None
        """The steps under way."""

    @property
    def is_idle(self) -> bool:
        """Nothing runs."""
        return not self._running

    @property
    def has_room(self) -> bool:
        """Fewer requests wait in the session than its rows could take up: requests need memory."""
        return self._n_rows < 2 * self._max_rows

    def submit(self, job: Job) -> None:
        """Queue a request; not while steps are under way."""
        self._running[self._session.submit(job.source, job.prefix, job.options)] = job
        self._n_rows += job.n_rows

    def start(self) -> None:
        """Set the executor to work."""
        if self._executor is not None:
            self.future = self._executor.submit(self._advance)

    def finish(self) -> None:
        """Wait for the steps under way, or make them; results are handed to their jobs.

        Raises what a step raises.
        """
        future, self.future = self.future, None
        if future is None:
            self._advance()
        else:
            future.result()
        while (result := self._session.next_result()) is not None:
            job = self._running.pop(result.id)
            job.result = result
            self._n_rows -= job.n_rows

    def _advance(self) -> None:
        start = perf_counter()
        self._session.step(self._n_steps)
        elapsed = perf_counter() - start
        self._n_steps = max(1, min(MAX_STEPS, int(self._n_steps * SECONDS / max(elapsed, 1e-6))))


class Lanes:
    """The lanes of one call.  Leaving the context waits for steps under way and drops them all."""

    def __init__(self, prompt: _core.Prompt | None = None) -> None:
        """prompt: of all sessions."""
        self._prompt = prompt
        self._lanes: list[Lane] = []
        self._executor: Executor | None = None

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self._lanes)

    def open(self, model: _core.Model, pool: _core.Pool, sizes: SessionSizes, n: int) -> None:
        """Replace all lanes, which must be idle, by n, and divide the pool's threads among them."""
        self._close()  # frees memory before their successors take it
        if n == 1:
            self._lanes = [Lane(open_session(model, pool, sizes, self._prompt), sizes, None)]
            return
        from concurrent.futures import ThreadPoolExecutor

        self._executor = ThreadPoolExecutor(n, "s2s_infer")
        for i in range(n):
            n_threads = pool.n_threads // n + (i < pool.n_threads % n)
            own = None if n_threads == 1 else shared_pool(n_threads, i)
            session = open_session(model, own, sizes, self._prompt)
            self._lanes.append(Lane(session, sizes, self._executor))

    @property
    def are_idle(self) -> bool:
        """Nothing runs."""
        return all(lane.is_idle for lane in self._lanes)

    @property
    def have_room(self) -> bool:
        """Some lane takes more requests; so too where there is no lane yet."""
        return not self._lanes or any(lane.has_room for lane in self._lanes)

    def deal(self, jobs: list[Job]) -> None:
        """Submit jobs, taken from the end of the list, to the lanes that are not stepping.

        Each gets its share of all there are, so that none is left without work at the end.
        """
        resting = [lane for lane in self._lanes if lane.future is None]
        n_left = -(-len(jobs) * len(resting) // max(1, len(self._lanes)))
        while n_left:
            open_lanes = [lane for lane in resting if lane.has_room][:n_left]
            if not open_lanes:
                return
            for lane in open_lanes:
                lane.submit(jobs.pop())
            n_left -= len(open_lanes)

    def step(self) -> None:
        """Advance every lane that has work, until one of them hands in what it has."""
        busy = [lane for lane in self._lanes if not lane.is_idle]
        for lane in busy:
            if lane.future is None:
                lane.start()
        futures = [lane.future for lane in busy if lane.future is not None]
        if futures:
            from concurrent.futures import FIRST_COMPLETED, wait

            wait(futures, return_when=FIRST_COMPLETED)
        for lane in busy:
            if lane.future is None or lane.future.done():
                lane.finish()

    def _close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()  # steps under way end first: they use the session
            self._executor = None
        self._lanes = []
