"""Lines in and lines out: files of any size and pipes, in flat memory."""

from __future__ import annotations

import json
import math
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import OptionError
from ..readers import IterableReader, Reader

T = TypeVar("T")

CHUNK_BYTES = 1 << 16
MAX_LINE_BYTES = 16 << 20


def read_pairs(path: Path) -> tuple[list[str], list[str] | None]:
    """Sources, one a line, and their references if every line has a TAB and one behind it.

    Further columns are left out.  Raises OptionError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not valid UTF-8.") from None
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror}.") from None
    rows = [line.split("\t") for line in lines if line.strip()]
    if not rows:
        raise OptionError(f"{path} has no lines to translate.")
    references = [row[1] for row in rows] if all(len(row) > 1 for row in rows) else None
    return [row[0] for row in rows], references


class ArgumentReader(IterableReader[T]):
    """Texts of the command line, which errors count from 1."""

    def where(self, index: int) -> str:
        return f"argument {index + 1}"


class LineReader(Reader[T]):
    """UTF-8 lines of a file descriptor, each of them parsed.

    Reads what is there and does not wait for more while there is work to do, so that a program that
    writes a line and waits for its translation gets it.
    """

    def __init__(self, descriptor: int, parse: Callable[[str, str], T]) -> None:
        """parse: (line, what errors call it) -> input."""
        self._descriptor = descriptor
        self._parse = parse
        self._lines: deque[bytes] = deque()  # whole lines, not yet taken
        self._rest = bytearray()  # of a line whose end was not read yet
        self._ended = False
        self._error: OptionError | None = None
        self.n_taken = 0
        self.n_bytes_taken = 0
        status = os.fstat(descriptor)
        self.n_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
        """Size of a regular file."""

    def take(self, limit: int, wait: bool) -> Sequence[T] | None:
        if self._error is not None:
            raise self._error
        while len(self._lines) < limit and not self._ended:
            must_wait = wait and not self._lines
            if not must_wait and not select.select([self._descriptor], [], [], 0)[0]:
                break
            self._read()
        taken: list[T] = []
        while self._lines and len(taken) < limit:
            line = self._lines.popleft()
            try:
                text = self._decoded(line)
                taken.append(self._parse(text, self.where(self.n_taken - 1)))
            except OptionError as error:
                if not taken:
                    raise
                self._error = error
                break
        return taken if taken or not self._ended else None

    def where(self, index: int) -> str:
        return f"line {index + 1}"

    def _read(self) -> None:
        data = os.read(self._descriptor, CHUNK_BYTES)
        first, *others = data.split(b"\n")
        self._rest += first
        for part in others:
            self._lines.append(bytes(self._rest))
            self._rest = bytearray(part)
        if not data:
            self._ended = True
            if self._rest:
                self._lines.append(bytes(self._rest))
        if len(self._rest) > MAX_LINE_BYTES:
            number = self.n_taken + len(self._lines) + 1
            raise OptionError(f"line {number} is longer than {MAX_LINE_BYTES >> 20} MiB.")

    def _decoded(self, line: bytes) -> str:
        self.n_taken += 1
        self.n_bytes_taken += len(line) + 1
        try:
            text = line.decode("utf-8-sig" if self.n_taken == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise OptionError(
                f"line {self.n_taken} is not valid UTF-8: byte {line[error.start]:#04x} at offset "
                f"{error.start}."
            ) from None
        return text[:-1] if text.endswith("\r") else text


class LineWriter:
    """Writes UTF-8 lines to a binary file."""

    def __init__(self, file: IO[bytes], flush: bool) -> None:
        """flush: after each line, for a reader that waits for it."""
        self._file = file
        self._flush = flush

    def write(self, text: str) -> None:
        """One line: line breaks inside the text become spaces."""
        if "\n" in text or "\r" in text:
            text = text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
        self._file.write(text.encode("utf-8", "replace") + b"\n")
        if self._flush:
            self._file.flush()


def to_json(value: Any) -> str:
    """One line of JSON, text as it is; numbers that are not finite, which JSON lacks, are null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress:
    """A line on a terminal that says how far a long job is; nothing where there is no terminal."""

    def __init__(self, reader: LineReader[Any] | None, output: IO[bytes], quiet: bool) -> None:
        """output: where results go; on a terminal they are progress enough."""
        self._reader = reader
        self._shown = (
            reader is not None and not quiet and sys.stderr.isatty() and not output.isatty()
        )
        self._n_done = 0
        if self._shown:
            from time import monotonic

            self._now = monotonic
            self._start = self._last = monotonic()

    def advance(self) -> None:
        """One more result."""
        self._n_done += 1
        if self._shown and self._now() - self._last >= 0.2:
            self._last = self._now()
            self._show()

    def close(self) -> None:
        """Leave the last state on the terminal."""
        if self._shown and self._n_done:
            self._show()
            sys.stderr.write("\n")

    def _show(self) -> None:
        assert self._reader is not None
        rate = self._n_done / max(1e-9, self._now() - self._start)
        part = ""
        if self._reader.n_bytes:
            # bytes are counted when lines are taken; scale to the lines that are done
            bytes_done = self._reader.n_bytes_taken * self._n_done / max(1, self._reader.n_taken)
            fraction = min(1.0, bytes_done / self._reader.n_bytes)
            filled = int(fraction * 24)
            part = f"[{'#' * filled}{'.' * (24 - filled)}] {fraction:4.0%}  "
            if 0 < fraction < 1:
                seconds = int((self._now() - self._start) * (1 - fraction) / fraction)
                part += f"{seconds // 60}:{seconds % 60:02} left  "
        sys.stderr.write(f"\r{part}{self._n_done} lines, {rate:.1f} lines/s\x1b[K")
        sys.stderr.flush()
