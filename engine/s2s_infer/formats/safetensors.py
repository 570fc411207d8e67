"""Reading and writing safetensors files in place, by mmap.

The `safetensors` package has no bfloat16 for numpy, hands out copies, and does not let the writer
choose the order or the alignment of the data; the format itself is small: the length of a JSON
header (8 bytes, little-endian), the header, and the data of all tensors one after another, without
holes.  https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ModelError
from ..records import record
from .files import parse_json, reason, shown, what_is

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


MAX_HEADER_BYTES = 100_000_000
MAX_RANK = 8
MAX_NAME = 256
CHECKSUM = "sha256"
"""Its name in the metadata."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its bits
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_KEYS = {"dtype", "shape", "data_offsets"}


class TensorEntry(NamedTuple):
    """One tensor of a header; offsets in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class FileState(NamedTuple):
    """Which file it was, and when it was last written to."""

    path: str
    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: str | Path, status: os.stat_result) -> FileState:
        """path: absolute from now on, wherever the process may go."""
        return cls(
            os.path.abspath(path),  # noqa: PTH100 (resolve() would follow links)
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
        )

    def was_written_to(self) -> bool:
        """False if another file is there now, or none."""
        try:
            now = os.stat(self.path)  # noqa: PTH116 (each call asks)
        except OSError:
            return False
        return (now.st_mtime_ns != self.modified_ns or now.st_size != self.size) and (
            (now.st_dev, now.st_ino) == (self.device, self.inode)
        )


@record
class SafetensorsFile:
    """A validated, mapped file.  Arrays are read-only views that keep the mapping alive."""

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, TensorEntry]
    _bytes: npt.NDArray[np.uint8]
    _state: FileState

    def array(self, name: str) -> Array:
        """The tensor `name`; BF16 as uint16.  No data is read before it is used."""
        entry = self.entries[name]
        return self._bytes[entry.start : entry.end].view(DTYPES[entry.dtype]).reshape(entry.shape)

    def check_unchanged(self) -> None:
        """Raise ModelError if the file was written to since it was mapped.

        What is mapped would be other numbers then, and where the file became shorter reading it
        would end the process.  Another file put in its place does no harm, nor does removing it:
        the mapping keeps what was opened.
        """
        if self._state.was_written_to():
            raise ModelError(f"{self.path} was written to after it was opened: open it again.")

    def verify(self) -> None:
        """Read all of it and compare it with the checksum in its header.  Raises ModelError."""
        n_header = int.from_bytes(self._bytes[:8].tobytes(), "little")
        header = parse_json(self._bytes[8 : 8 + n_header].tobytes(), f"the header of {self.path}")
        expected = header.get("__metadata__", {}).pop(CHECKSUM, None)
        if expected is None:
            raise ModelError(f"{self.path} has no checksum: convert the model anew.")
        found = _checksum(header, [self._bytes[8 + n_header :].data])
        if found != expected:
            raise ModelError(
                f"{self.path} is damaged: its header has the SHA-256 {shown(expected)}, but its "
                f"contents have {found!r}."
            )


def open_safetensors(path: Path, kind: str = "a safetensors file") -> SafetensorsFile:
    """Map a file and validate its header; the data is not touched.

    kind: what the file should be, for the errors.  Raises ModelError.
    """
    data, state = _map(path, kind)
    size = data.size
    head = data[:512].tobytes()
    n_header = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or n_header > MAX_HEADER_BYTES:
        found = what_is(head)
        raise ModelError(
            f"{path} is {found}, not {kind}."
            if found
            else f"{path} is not {kind}: it begins with the bytes {head[:9].hex(' ')}."
        )
    if n_header > size - 8:
        raise ModelError(
            f"{path} is truncated: its header has {n_header} bytes, the whole file {size}."
        )
    what = f"the header of {path}"
    header = parse_json(data[8 : 8 + n_header].tobytes(), what)
    if not isinstance(header, dict):
        raise ModelError(f"{what} must be a JSON object, not {type(header).__name__}.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{what} has a __metadata__ that does not map text to text.")
    entries = {name: _entry(name, e, 8 + n_header, what) for name, e in header.items()}
    _check_layout(entries, 8 + n_header, size, path)
    return SafetensorsFile(path, metadata, entries, data, state)


def _map(path: Path, kind: str) -> tuple[npt.NDArray[np.uint8], FileState]:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path} is not a regular file.")
            if status.st_size == 0:
                raise ModelError(f"{path} is an empty file, not {kind}.")
            mapping = mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} cannot be mapped: {reason(error)}.") from error
    return np.frombuffer(mapping, np.uint8), FileState.of(path, status)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _entry(name: str, entry: object, data_start: int, what: str) -> TensorEntry:
    if "\0" in name or not _is_unicode(name):
        raise ModelError(f"{what} has a tensor whose name {shown(name)} is no text.")
    if len(name) > MAX_NAME:
        raise ModelError(f"{what} has a tensor whose name has {len(name)} characters.")
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise ModelError(
            f"{what} must describe tensor {name!r} by dtype, shape and data_offsets only."
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"{what} gives tensor {name!r} the unknown dtype {shown(dtype)}.")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        raise ModelError(f"{what} gives tensor {name!r} the bad shape {shown(shape)}.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ModelError(f"{what} gives tensor {name!r} the bad data_offsets {shown(offsets)}.")
    n_bytes = DTYPES[dtype].itemsize
    for n in shape:
        n_bytes *= n
    if offsets[1] - offsets[0] != n_bytes:
        raise ModelError(
            f"{what} gives tensor {name!r} of {dtype} {shown(shape)} the data_offsets {offsets}, "
            f"but it has {n_bytes} bytes."
        )
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _check_layout(
    entries: Mapping[str, TensorEntry], data_start: int, size: int, path: Path
) -> None:
    """Tensors must follow one another without overlap or hole, up to the end of the file."""
    position = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.end > size:
            raise ModelError(
                f"{path} is truncated: tensor {name!r} ends at byte {entry.end}, the file at "
                f"{size}."
            )
        if entry.start != position:
            problem = (
                "overlaps the one before" if entry.start < position else "leaves a hole before"
            )
            raise ModelError(f"{path} is corrupt: tensor {name!r} {problem} it.")
        position = entry.end
    if position != size:
        raise ModelError(
            f"{path} is corrupt: its tensors end at byte {position}, the file at {size}."
        )


def _dump(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _checksum(header: Mapping[str, Any], pieces: Iterable[memoryview]) -> str:
    """SHA-256 of the header without its checksum and of the data."""
    import hashlib

    digest = hashlib.sha256(_dump(header))
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def write_safetensors(
    path: Path,
    tensors: Iterable[tuple[str, str, Array]],
    metadata: Mapping[str, str],
    alignment: int,
) -> None:
    """Write (name, dtype, array) triples in the given order, atomically.

    The data of every tensor begins at a multiple of `alignment` bytes: the header is padded with
    spaces, as the format allows, and a tensor whose size is no multiple is followed by a U8 tensor
    of zeros named padding.N.  The metadata get a checksum, which `SafetensorsFile.verify` compares.
    The same arguments give the same bytes.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    pieces: list[Array] = []
    offset = 0

    def add(name: str, dtype: str, array: Array) -> None:
        nonlocal offset
        end = offset + array.nbytes
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        pieces.append(array)
        offset = end

    for name, dtype, array in tensors:
        add(name, dtype, np.ascontiguousarray(array, dtype=DTYPES[dtype]))
        if offset % alignment:
            n = -offset % alignment
            add(f"padding.{len(pieces)}", "U8", np.zeros(n, np.uint8))

    data = [_raw(piece) for piece in pieces]
    entries["__metadata__"][CHECKSUM] = _checksum(entries, data)
    header = _dump(entries)
    header += b" " * (-(8 + len(header)) % alignment)
    _write_atomically(path, [len(header).to_bytes(8, "little") + header, *data])


def _raw(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _write_atomically(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write beside `path` and rename: readers see the old file or the new one, never a part."""
    import tempfile

    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
