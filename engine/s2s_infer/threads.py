"""How many threads to use, and the pools that models share."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

from . import _core
from .errors import OptionError
from .kinds import as_integer

MAX_THREADS = 1024

_pools: dict[tuple[int, int], _core.Pool] = {}
_pools_lock = Lock()


def shared_pool(n_threads: int, lane: int = 0) -> _core.Pool:
    """The process's one pool of that size for sessions that run side by side as lane 0, 1, ...

    Its workers start when first used and sleep when idle.
    """
    with _pools_lock:
        pool = _pools.get((n_threads, lane))
        if pool is None:
            pool = _pools[n_threads, lane] = _core.Pool(n_threads)
        return pool


def choose_threads(threads: int | None) -> tuple[int, str]:
    """The number of threads and a sentence that says why.

    threads: what the caller asked for; None: the cores that this process may use, which are the
    CPUs of its affinity mask, bounded by the CPU quota of its cgroups (rounded down, at least 1).
    """
    if threads is not None:
        count = as_integer(threads)
        if count is None:
            raise OptionError(f"threads must be an integer or None, not {threads!r}.")
        if not 1 <= count <= MAX_THREADS:
            raise OptionError(f"threads must be from 1 to {MAX_THREADS}, not {threads}.")
        return count, "as asked for"
    if hasattr(os, "sched_getaffinity"):
        count, reason = len(os.sched_getaffinity(0)), "CPUs that this process may run on"
    else:
        count, reason = os.cpu_count() or 1, "CPUs of this machine"
    quota = _cgroup_quota(Path("/"))
    if quota is not None and quota < count:
        count, reason = max(1, int(quota)), f"CPU quota of this process's cgroup ({quota:.2f} CPUs)"
    return min(count, MAX_THREADS), reason


def _cgroup_quota(root: Path) -> float | None:
    """CPUs that this process's cgroups allow (v2 cpu.max, v1 cpu.cfs_quota_us); None: no limit.

    A group is bounded by each of its parents.  In a container the path that /proc names may lie
    outside the mounted tree; the mounted root is then the container's own group, so it is read too.
    """
    quotas = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            mounts = [root / "sys/fs/cgroup"]
        elif "cpu" in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / name for name in ("cpu", controllers)]
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                quota = _group_quota(mount.joinpath(*parts[:depth]))
                if quota is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def _group_quota(group: Path) -> float | None:
    try:
        limit, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        return int(limit) / int(period) if int(limit) > 0 and int(period) > 0 else None
    except ValueError:  # "max"
        return None
