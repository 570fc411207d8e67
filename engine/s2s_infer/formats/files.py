"""Reading untrusted files: size limits, strict JSON, and naming what a wrong file is."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import ModelError

MAX_JSON_BYTES = 256 << 20

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a git-LFS pointer (fetch it with 'git lfs pull')",
    ),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
        "a PyTorch file of before version 1.6",
    ),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x7fELF", "an executable"),
    (b"%PDF", "a PDF document"),
)
_TAR_MAGIC = slice(257, 262)
_PICKLE_PROTOCOLS = (2, 3, 4, 5)


def what_is(head: bytes) -> str | None:
    """Name the kind of a file by its first bytes (512 are enough); None if it is nothing known.

    Not for telling a safetensors file: its first bytes are a length, which may look like anything.
    """
    if not head:
        return "an empty file"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "an HTML page"
    if len(head) > _TAR_MAGIC.stop and head[_TAR_MAGIC] == b"ustar":
        return "a tar archive"
    if text.startswith((b"{", b"[")) and b"\x00" not in head[:8]:
        return "a JSON file"
    if head[0] == 0x80 and len(head) > 1 and head[1] in _PICKLE_PROTOCOLS:
        return "a Python pickle"
    return None


def head_of(path: Path, size: int = 512) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(size)


def read_file(path: Path, limit: int) -> bytes:
    """The contents of a regular file of at most `limit` bytes.  Raises ModelError."""
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path} is not a regular file.")
            if status.st_size > limit:
                raise ModelError(
                    f"{path} has {status.st_size} bytes, more than the {limit} that such a file "
                    "may have."
                )
            return file.read(status.st_size)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} cannot be read: {reason(error)}.") from error


def reason(error: BaseException) -> str:
    """The reason of an error in a few words: no path, no full stop, one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
    return " ".join(text.split())[:300].rstrip(". ")


def shown(value: object, limit: int = 80) -> str:
    """A value from a file as it may stand in an error: on one line, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def parse_json(data: bytes | str, what: str) -> Any:
    """Strict JSON: UTF-8, no NaN or Infinity, no key twice.  `what` names the source in errors.

    Raises ModelError.
    """

    def no_constant(name: str) -> Any:
        raise ModelError(f"{what} contains {name}, which is not a number.")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise ModelError(f"{what} has the key {shown(key)} twice.")
                seen.add(key)
        return result

    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=no_duplicates)
    except ModelError:
        raise
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{what} is not UTF-8 text: byte {error.object[error.start]:#04x} at offset "
            f"{error.start}."
        ) from None
    except RecursionError:
        raise ModelError(f"{what} is nested too deeply.") from None
    except ValueError as error:
        found = None
        if isinstance(data, bytes) and data.lstrip()[:1] not in (b"{", b"["):
            found = what_is(data[:512])
        raise ModelError(
            f"{what} is {found}, not JSON."
            if found
            else f"{what} is not valid JSON: {reason(error)}."
        ) from None


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file whose top is an object.  Raises ModelError."""
    value = parse_json(read_file(path, MAX_JSON_BYTES), str(path))
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value
