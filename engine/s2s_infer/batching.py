"""The one loop behind every call: submit, step, next_result, over sessions sized for their work.

Inputs are read a window at a time and submitted longest first, so that no long sentence is left to
run alone at the end; freed rows are refilled from the next window while the rest still runs.  Few
requests share one session and all threads; many are dealt to sessions side by side (`lanes`).  What
is held in memory is bounded by the window, not by the number of inputs.  Results come in the order
of the inputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, length_hint
from typing import Any, NamedTuple, TypeVar

from . import _core
from .config import ModelConfig
from .lanes import Lanes, n_lanes, open_session
from .readers import MANY, IterableReader, Reader

T = TypeVar("T")

WINDOW = 256
"""Inputs read at once; a call holds at most about eight windows of inputs and results."""
MAX_REQUESTS = 64
"""Requests that a session runs at once, memory permitting; more no longer pay on a CPU."""
MAX_ROWS = 128
"""Decoder rows likewise: what a step works on stays in a core's cache."""
MAX_SESSION_BYTES = 1 << 30
"""What the sessions of a call and their requests may reserve before they run fewer requests at
once.  Reserved memory becomes resident only as far as it is used: by as many positions as sentences
really have."""
MIN_ENCODER_TOKENS = 192
"""Source tokens to encode together, at least, when there are that many: enough to read weights
seldom, few enough that what a layer makes of them stays in a core's cache."""
MIN_PREFIX_TOKENS = 512
"""Tokens of prefixes to read together, likewise."""
MIN_POSITIONS = 64
"""Positions of a session that more inputs will come for, at least: a longer one than those that
are there would wait until all that runs has ended."""
POLL_SECONDS = 0.005
"""How often to look for further inputs while lanes work."""


@dataclass(slots=True)
class Job:
    """One input on its way through a session."""

    source: list[int]
    """Empty for a model without encoder."""
    prefix: list[int]
    """Start token, then forced target tokens; for a model without encoder the prompt, then those.
    Empty: the result is empty, nothing runs."""
    options: _core.Options
    n_rows: int
    """Decoder rows needed."""
    truncated: bool = False
    n_prompt: int = 0
    """Tokens of the prefix that are the prompt of a model without encoder: input, not output."""
    result: _core.Result | None = None

    @property
    def n_input(self) -> int:
        """Tokens that are read before the first one is generated: what makes a job long."""
        return len(self.source) + len(self.prefix)

    @property
    def n_target(self) -> int:
        """Positions of the decoder: the last token is chosen but never fed."""
        return max(1, len(self.prefix) + self.options.max_new_tokens - 1)


class SessionSizes(NamedTuple):
    """The maxima that a session is made with."""

    max_rows: int
    max_source_positions: int
    max_target_positions: int
    max_encoder_tokens: int
    max_sources: int

    def admit(self, jobs: Sequence[Job]) -> bool:
        """Whether each of the jobs fits."""
        needed = needed_sizes(jobs)
        return (
            needed.max_source_positions <= self.max_source_positions
            and needed.max_target_positions <= self.max_target_positions
            and needed.max_rows <= self.max_rows
        )


def needed_sizes(jobs: Sequence[Job]) -> SessionSizes:
    """The smallest sizes that admit each of the jobs alone."""
    n_rows, n_source, n_target, n_input = 1, 0, 1, 0
    for job in jobs:
        n_rows = max(n_rows, job.n_rows)
        n_source = max(n_source, len(job.source))
        n_target = max(n_target, job.n_target)
        n_input = max(n_input, job.n_input)
    n_together = max(n_source, min(n_input, MIN_PREFIX_TOKENS))
    return SessionSizes(n_rows, n_source, n_target, n_together, 1)


def session_sizes(
    config: ModelConfig,
    jobs: Sequence[Job],
    n_inputs: int,
    previous: SessionSizes | None = None,
    n_sessions: int = 1,
) -> SessionSizes:
    """Sizes of a session for these jobs: as many at once as are useful and as memory allows.

    n_inputs: jobs to expect in all; where that is more than these, positions are at least twice
    those needed, memory permitting.  previous: the session that proved too small; positions then
    at least double.  Both so that sessions are seldom made anew, which waits for all that runs.
    n_sessions: sessions that share the jobs and the memory.
    """
    need = needed_sizes(jobs)
    n_share = -(-n_inputs // n_sessions)
    if n_share == 1 and previous is None:
        return need

    def n_requests(need: SessionSizes) -> int:
        bytes_each = _request_bytes(config, need, jobs[0].options.values)
        in_memory = MAX_SESSION_BYTES // n_sessions // bytes_each
        return max(1, min(n_share, MAX_REQUESTS, MAX_ROWS // need.max_rows, in_memory))

    if previous is not None:
        need = need._replace(
            max_source_positions=_doubled(
                need.max_source_positions,
                previous.max_source_positions,
                config.encoder.max_positions,
            ),
            max_target_positions=_doubled(
                need.max_target_positions,
                previous.max_target_positions,
                config.decoder.max_positions,
            ),
        )
    elif n_inputs > len(jobs):
        twice = need._replace(
            max_source_positions=_roomy(need.max_source_positions, config.encoder.max_positions),
            max_target_positions=_roomy(need.max_target_positions, config.decoder.max_positions),
        )
        if n_requests(twice) == n_requests(need):
            need = twice
    n = n_requests(need)
    n_together = MIN_ENCODER_TOKENS if config.has_encoder else MIN_PREFIX_TOKENS
    return SessionSizes(
        need.max_rows * n,
        need.max_source_positions,
        need.max_target_positions,
        max(need.max_source_positions, min(n * need.max_encoder_tokens, n_together)),
        max(1, min(2 * n, n_share)),
    )


def _request_bytes(config: ModelConfig, need: SessionSizes, options: Mapping[str, Any]) -> int:
    """What a session reserves for each request that it runs at once, and one that waits."""
    decoder = config.decoder
    # keys and values of one position in all layers, float32, heads padded to 16
    kv_bytes = decoder.n_layers * decoder.d_cached * 4
    kept_bytes = decoder.cached_positions(need.max_target_positions) * decoder.d_cached * 4
    # what a search records at each step of a row
    step_bytes = 32 + 16 * int(options.get("n_alternatives", 0))
    if options.get("return_alignment"):
        step_bytes += 8 * need.max_source_positions
    row_bytes = kept_bytes + config.vocab_size * 8 + 2 * need.max_target_positions * step_bytes
    return need.max_rows * row_bytes + 2 * need.max_source_positions * kv_bytes


def _doubled(need: int, previous: int, maximum: int) -> int:
    """`previous` if it suffices, else at least twice as much, within the maximum."""
    return previous if need <= previous else max(need, min(2 * previous, maximum))


def _roomy(need: int, maximum: int) -> int:
    """Positions for inputs that may be longer than those that need so many; none where none are."""
    return min(max(2 * need, MIN_POSITIONS), maximum) if need else 0


_n_input = attrgetter("n_input")


def run_all(
    model: _core.Model,
    pool: _core.Pool,
    config: ModelConfig,
    jobs: Sequence[Job],
    prompt: _core.Prompt | None = None,
) -> None:
    """Run jobs that are all there; each has its result then."""
    todo: list[Job] = []
    n_rows = 0
    for job in jobs:
        if job.prefix:
            todo.append(job)
            n_rows += job.n_rows
    if todo and n_lanes(pool.n_threads, n_rows) == 1:
        sizes = session_sizes(config, todo, len(todo))
        if n_rows <= sizes.max_rows:  # one session runs all of them at once
            session = open_session(model, pool, sizes, prompt)
            session.run(sorted(todo, key=_n_input, reverse=True))
            return
    for _ in run(model, pool, config, IterableReader(jobs), lambda job: job, prompt=prompt):
        pass


def run(
    model: _core.Model,
    pool: _core.Pool,
    config: ModelConfig,
    items: Reader[T],
    prepare: Callable[[T], Job],
    window: int = WINDOW,
    prompt: _core.Prompt | None = None,
) -> Iterator[Job]:
    """Run every input and yield its job, with its result, in input order.

    An error of `items` or `prepare` ends the reading; it is raised after the results of the inputs
    before it.  Leaving the iterator, by an exception too, drops the session with all that runs.
    """
    sizes: SessionSizes | None = None
    ordered: deque[Job] = deque()  # read, not yet yielded
    held: list[Job] = []  # read, not yet given to the lanes
    fits = False  # the sessions are made for what is held
    error: Exception | None = None
    ended = False
    n_inputs = length_hint(items, MANY)

    with Lanes(prompt) as lanes:

        def may_read() -> bool:
            wanted = lanes.n_todo <= window // 2 and len(ordered) <= 8 * window
            return wanted and not (held or ended)

        while True:
            if may_read():
                try:
                    taken = items.take(window, wait=lanes.are_idle)
                    ended = taken is None
                    for item in taken or ():
                        job = prepare(item)
                        ordered.append(job)
                        if job.prefix:
                            held.append(job)
                except Exception as failure:
                    error, ended = failure, True
                held.sort(key=_n_input, reverse=True)
                n_useful = n_lanes(pool.n_threads, sum([job.n_rows for job in held]))
                fits = sizes is not None and sizes.admit(held) and n_useful <= len(lanes)
            if held and not fits and lanes.are_idle:
                n_useful = max(n_useful, len(lanes))
                sizes = session_sizes(config, held, n_inputs, sizes, n_useful)
                lanes.open(model, pool, sizes, n_useful)
                fits = True
            if fits:
                lanes.add(held)
                held = []
            lanes.run(POLL_SECONDS if may_read() else None)
            while ordered and (ordered[0].result is not None or not ordered[0].prefix):
                yield ordered.popleft()
            if ended and not ordered:
                if error is not None:
                    raise error
                return
