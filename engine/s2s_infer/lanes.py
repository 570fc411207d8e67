"""Sessions side by side, each stepped by a thread of its own: how many requests use many cores.

Threads that share every product of one session meet at the end of each, some hundred times a step.
Lanes never meet: a core has its own requests, its own caches.  A lane takes its next requests from
a list that all share, and hands in results, without waiting for the thread that made the one and
reads the other.  It costs rows, since a step of few rows costs about as much as one of a few more;
`n_lanes` is the rule.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import _core
from .threads import shared_pool

if TYPE_CHECKING:
    from queue import SimpleQueue

    from .batching import Job, SessionSizes

MIN_ROWS = 16
"""Decoder rows that a lane has work for, at least: up to as many, a product costs little more than
reading its weights once."""
SECONDS = 0.005
"""A lane makes steps for about as long, at least one, before it hands in results."""
MAX_STEPS = 16
"""And at most as many while requests wait for its rows to become free."""
MANY_STEPS = 1 << 20
"""No limit beside that."""


def n_lanes(n_threads: int, n_rows: int) -> int:
    """Lanes for n_threads threads and requests of n_rows rows in all, at least 1."""
    if n_threads == 1 or n_rows < 2 * MIN_ROWS:
        return 1
    return min(n_threads, n_rows // MIN_ROWS)


def open_session(
    model: _core.Model,
    pool: _core.Pool | None,
    sizes: SessionSizes,
    prompt: _core.Prompt | None = None,
) -> _core.Session:
    """A session of these sizes, whose requests may begin with the prompt."""
    return _core.Session(model, pool, *sizes, prompt)


class Lane:
    """A session and what runs in it.  One thread at a time."""

    def __init__(self, session: _core.Session, sizes: SessionSizes) -> None:
        self._session = session
        self._running: dict[int, Job] = {}  # by request id
        self.max_rows = sizes.max_rows
        self.n_rows = 0
        """Rows of the requests that run or wait in the session."""
        self.rests = True
        """No thread works for this lane."""
        self.thread: threading.Thread | None = None
        """The last one that worked for this lane."""

    @property
    def is_idle(self) -> bool:
        """Nothing runs."""
        return not self._running

    def submit(self, job: Job) -> None:
        """Queue a request."""
        self._running[self._session.submit(job.source, job.prefix, job.options)] = job
        self.n_rows += job.n_rows

    def advance(self, n_steps: int) -> list[Job]:
        """Make steps, while there is something to do, at most n_steps, for about SECONDS; the jobs
        that ended, with their results.  Raises what a step raises."""
        self._session.step(n_steps, SECONDS)
        ended = []
        for result in self._session.results():
            job = self._running.pop(result.id)
            job.result = result
            self.n_rows -= job.n_rows
            ended.append(job)
        return ended


class Lanes:
    """The lanes of one call.  Leaving the context waits for steps under way and drops them all."""

    def __init__(self, prompt: _core.Prompt | None = None) -> None:
        """prompt: of all sessions."""
        self._prompt = prompt
        self._lanes: list[Lane] = []
        self._todo: deque[Job] = deque()  # not yet taken by a lane; the next one first
        self._handed_in: SimpleQueue[list[Job] | Lane | BaseException] | None = None
        """What the lanes' threads have; None: the only lane runs on the caller's thread."""
        self._closing = False

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self._lanes)

    def open(self, model: _core.Model, pool: _core.Pool, sizes: SessionSizes, n: int) -> None:
        """Replace all lanes, which must be idle, by n, and divide the pool's threads among them."""
        self._close()  # frees memory before their successors take it
        self._closing = False
        if n == 1:
            self._lanes = [Lane(open_session(model, pool, sizes, self._prompt), sizes)]
            return
        from queue import SimpleQueue

        self._handed_in = SimpleQueue()
        for i in range(n):
            n_threads = pool.n_threads // n + (i < pool.n_threads % n)
            own = None if n_threads == 1 else shared_pool(n_threads, i)
            session = open_session(model, own, sizes, self._prompt)
            self._lanes.append(Lane(session, sizes))

    @property
    def are_idle(self) -> bool:
        """Nothing runs, and nothing is left to run."""
        return not self._todo and all(lane.rests and lane.is_idle for lane in self._lanes)

    @property
    def n_todo(self) -> int:
        """Jobs that no lane has taken yet."""
        return len(self._todo)

    def add(self, jobs: Iterable[Job]) -> None:
        """Jobs to run, in that order, after those that were added before."""
        self._todo.extend(jobs)

    def run(self, seconds: float | None) -> None:
        """Let the lanes run until one of them hands in what it has, or about `seconds`.

        Returns at once if there is nothing to do.  Raises what a step raises.
        """
        handed_in = self._handed_in
        if handed_in is None:
            for lane in self._lanes:
                self._fill(lane)
                if not lane.is_idle:
                    lane.advance(self._n_steps)
            return
        for lane in self._lanes:
            if lane.rests and (self._todo or not lane.is_idle):
                lane.thread = threading.Thread(
                    target=self._work, args=(lane, handed_in), name="s2s_infer"
                )
                lane.rests = False
                lane.thread.start()
        if all(lane.rests for lane in self._lanes):
            return
        from queue import Empty

        wait = True
        while wait or not handed_in.empty():
            try:
                found = handed_in.get(wait, seconds)
            except Empty:
                return
            wait = False
            if isinstance(found, Lane):
                found.rests = True
            elif isinstance(found, BaseException):
                raise found

    def _work(self, lane: Lane, handed_in: SimpleQueue[list[Job] | Lane | BaseException]) -> None:
        """What a lane's thread does until nothing is left to do.

        Once the main thread has ended, it rests after each advance: the interpreter waits for this
        thread, and nobody may be left who reads what it makes.
        """
        try:
            self._fill(lane)
            while not (lane.is_idle or self._closing):
                ended = lane.advance(self._n_steps)
                self._fill(lane)
                if ended:
                    handed_in.put(ended)
                if not threading.main_thread().is_alive():
                    break
        except BaseException as error:
            handed_in.put(error)
        handed_in.put(lane)

    @property
    def _n_steps(self) -> int:
        """That a lane makes before it looks for more to do."""
        return MAX_STEPS if self._todo else MANY_STEPS

    def _fill(self, lane: Lane) -> None:
        """Give a lane the next jobs: twice what its rows take up, so that freed rows never wait,
        but no more than its share of all there are, so that all lanes end together."""
        todo = self._todo
        while todo:
            try:
                n_rows = todo[0].n_rows
            except IndexError:  # nothing is left; another lane may have been faster
                return
            if not lane.is_idle:
                n_all = n_rows * len(todo) + sum([other.n_rows for other in self._lanes])
                share = -(-n_all // len(self._lanes))
                if lane.n_rows + n_rows > min(2 * lane.max_rows, share):
                    return
            try:
                job = todo.popleft()
            except IndexError:
                return
            lane.submit(job)

    def _close(self) -> None:
        self._closing = True
        for lane in self._lanes:  # steps under way end first: they use the session
            if lane.thread is not None and lane.thread.ident is not None:
                lane.thread.join()
        self._handed_in = None
        self._lanes = []
