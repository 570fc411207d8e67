"""A team of worker processes that share memory: each computes gradients of its part of a batch.

The processes are forked, so everything made before stays visible to all; arrays of
``shared_array`` are the same memory in every one. Rank 0 is the calling process itself.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from threading import BrokenBarrierError
from typing import Any

import numpy

_TIMEOUT = 1800.0  # seconds; a worker that is silent for so long is dead


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def shared_array(shape: tuple[int, ...], dtype: Any = numpy.float32) -> numpy.ndarray:
    """Zeros in anonymous memory that forked processes share."""
    n_bytes = max(1, math.prod(shape) * numpy.dtype(dtype).itemsize)
    return numpy.ndarray(shape, dtype, buffer=mmap.mmap(-1, n_bytes))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: a step frees and needs the same large blocks again.

    Otherwise each large array is a fresh mmap whose pages the kernel has to clear first.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass  # another C library: only slower


@dataclass
class Team:
    """One member's view of the team."""

    rank: int
    n_workers: int
    _barrier: Any
    _results: Any

    def wait(self) -> None:
        """Return when every member has called this."""
        if self.n_workers > 1:
            self._barrier.wait(_TIMEOUT)

    def share(self, n: int) -> slice:
        """This member's part of a range of ``n`` elements, on cache-line bounds."""
        edges = [n * i // self.n_workers // 16 * 16 for i in range(self.n_workers)] + [n]
        return slice(edges[self.rank], edges[self.rank + 1])

    def gather(self, value: object) -> list[Any] | None:
        """Everyone's value in the order of ranks at rank 0, None elsewhere."""
        if self.rank > 0:
            self._results.put((self.rank, value))
            return None
        parts = {0: value}
        while len(parts) < self.n_workers:
            rank, part = self._results.get(timeout=_TIMEOUT)
            parts[rank] = part
        return [parts[rank] for rank in range(self.n_workers)]


def run_team(n_workers: int, work: Callable[[Team], Any]) -> Any:
    """Run ``work(team)`` in ``n_workers`` processes; the result is that of rank 0.

    An exception in any member ends all of them; it is printed where it happened.
    """
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(n_workers), context.Queue()

    def member(rank: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 ends the team
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: do not outlive rank 0
        try:
            work(Team(rank, n_workers, barrier, results))
        except BrokenBarrierError:
            sys.exit(1)
        except BaseException:
            traceback.print_exc()
            barrier.abort()
            sys.exit(1)

    processes = [context.Process(target=member, args=(rank,)) for rank in range(1, n_workers)]
    for process in processes:
        process.start()
    try:
        result = work(Team(0, n_workers, barrier, results))
    except BrokenBarrierError:
        raise RuntimeError("a training worker has failed; its error is printed above") from None
    except BaseException:
        barrier.abort()
        raise
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.terminate()
    return result
