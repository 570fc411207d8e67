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
from typing import Any

import numpy


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def shared_array(shape: tuple[int, ...], dtype: Any = numpy.float32) -> numpy.ndarray:
    """Zeros in anonymous memory that forked processes share."""
    n_bytes = max(1, math.prod(shape) * numpy.dtype(dtype).itemsize)
    array: numpy.ndarray = numpy.ndarray(shape, dtype, buffer=mmap.mmap(-1, n_bytes))
    return array


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
    """One member's view of the team.

    Rank 0 holds a pipe to every other member, the others one to rank 0. A member that ends closes
    its pipe, so whoever waits for it learns of it at once (EOFError or OSError).
    """

    rank: int
    n_workers: int
    _pipes: list[Any]

    def wait(self) -> None:
        """Return when every member has called this."""
        if self.rank > 0:
            self._pipes[0].send_bytes(b"here")
            self._pipes[0].recv_bytes()
            return
        for pipe in self._pipes:
            pipe.recv_bytes()
        for pipe in self._pipes:
            pipe.send_bytes(b"go on")

    def share(self, n: int) -> slice:
        """This member's part of a range of ``n`` elements, on cache-line bounds."""
        edges = [n * i // self.n_workers // 16 * 16 for i in range(self.n_workers)] + [n]
        return slice(edges[self.rank], edges[self.rank + 1])

    def gather(self, value: object) -> list[Any] | None:
        """Everyone's value in the order of ranks at rank 0, None elsewhere."""
        if self.rank > 0:
            self._pipes[0].send(value)
            return None
        return [value, *(pipe.recv() for pipe in self._pipes)]


def run_team(n_workers: int, work: Callable[[Team], Any]) -> Any:
    """Run ``work(team)`` in ``n_workers`` processes; the result is that of rank 0.

    An exception in any member ends all of them; it is printed where it happened.
    """
    context = multiprocessing.get_context("fork")
    processes: list[Any] = []
    pipes: list[Any] = []

    def member(rank: int, pipe: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 ends the team
        for foreign in pipes:  # rank 0's ends, copied by the fork
            foreign.close()
        try:
            work(Team(rank, n_workers, [pipe]))
        except (EOFError, ConnectionError):
            sys.exit(1)  # rank 0 has gone
        except BaseException:
            traceback.print_exc()
            sys.exit(1)

    for rank in range(1, n_workers):
        here, there = context.Pipe()
        pipes.append(here)
        processes.append(context.Process(target=member, args=(rank, there), daemon=True))
        processes[-1].start()
        there.close()
    try:
        return work(Team(0, n_workers, pipes))
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("a training worker has failed; its error is printed above") from error
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.terminate()
                process.join()
