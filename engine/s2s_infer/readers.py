"""Where inputs come from: a list, any iterable, a queue; `cli.lines` has files and pipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import OptionError

if TYPE_CHECKING:
    from queue import Queue, SimpleQueue

T = TypeVar("T")

MANY = 1 << 20
"""Inputs to expect where nothing tells their number."""


class Reader(ABC, Generic[T]):
    """Inputs that may have to be waited for, lines of a pipe for instance."""

    @abstractmethod
    def take(self, limit: int, wait: bool) -> Sequence[T] | None:
        """Up to `limit` inputs that are ready now; none if none is ready, unless `wait`, which
        waits for one; None at the end.  An error is raised once the inputs before it are taken."""

    @abstractmethod
    def where(self, index: int) -> str:
        """What error messages call the input of that index, counted from 0."""


class IterableReader(Reader[T]):
    """Any iterable as a Reader.

    Waits for `limit` inputs, since nothing tells what is ready; for a single one only where that
    keeps no other waiting.
    """

    def __init__(self, items: Iterable[T], name: str = "texts") -> None:
        self._items = iter(items)
        self._name = name
        self._error: Exception | None = None

    def take(self, limit: int, wait: bool) -> Sequence[T] | None:
        if self._error is not None:
            raise self._error
        taken: list[T] = []
        if limit == 1 and not wait:
            return taken
        try:
            for item in self._items:
                taken.append(item)
                if len(taken) == limit:
                    break
        except Exception as error:
            if not taken:
                raise
            self._error = error
        return taken or None

    def where(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def __length_hint__(self) -> int:
        return length_hint(self._items, MANY)


class QueueReader(Reader[T]):
    """What other threads put into a queue, up to None."""

    def __init__(self, queue: Queue[T | None] | SimpleQueue[T | None]) -> None:
        self._queue = queue
        self._ended = False

    def take(self, limit: int, wait: bool) -> Sequence[T] | None:
        from queue import Empty

        taken: list[T] = []
        while len(taken) < limit and not self._ended:
            try:
                item = self._queue.get(wait and not taken)
            except Empty:
                break
            if item is None:
                self._ended = True
            else:
                taken.append(item)
        return None if self._ended and not taken else taken

    def where(self, index: int) -> str:
        return f"texts[{index}]"


def as_reader(texts: Any) -> Reader[Any]:
    """What a caller gave as any number of texts.  Raises OptionError."""
    if isinstance(texts, Reader):
        return texts
    from queue import Queue, SimpleQueue

    if isinstance(texts, (Queue, SimpleQueue)):
        return QueueReader(texts)
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise OptionError(f"texts must be several texts, not {type(texts).__name__}.")
    return IterableReader(texts)
