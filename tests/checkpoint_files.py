"""What the suites about files share: small checkpoints, written and read by means of their own."""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from s2s_infer.errors import ModelError
from s2s_infer.loaders import Checkpoint, load_checkpoint

CHECKPOINTS = Path(__file__).parent / "fixtures" / "checkpoints"
TINY = CHECKPOINTS / "marian-tiny"

Array = npt.NDArray[Any]
Raw = tuple[str, Array]
"""dtype as safetensors names it, and the array (BF16: its bits as uint16)"""
SHORT_TEXTS = [
    "今天天气很好",
    "",
    "hello world",
    "我很好",
    "   ",
    "good day to you",
    "天",
    "the weather is good today",
]


def tiny_copy(folder: Path) -> Path:
    """A writable copy of marian-tiny."""
    return Path(shutil.copytree(TINY, folder / "model"))


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object in a file; None removes one."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    values.update(changes)
    values = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def read_raw(path: Path) -> dict[str, Raw]:
    """All tensors of a safetensors file, read by the letter of the format."""
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    numpy_dtypes = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}
    result = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            array = np.frombuffer(data[8 + n + start : 8 + n + end], numpy_dtypes[entry["dtype"]])
            result[name] = (entry["dtype"], array.reshape(entry["shape"]))
    return result


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The parsed header and the data of a safetensors file."""
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def with_header(header: Any, data: bytes) -> bytes:
    """A safetensors file of a header (JSON-able, or bytes as they are) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text + data


def raw_file(tensors: Mapping[str, Raw]) -> bytes:
    """A safetensors file of tensors."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, array) in tensors.items():
        piece = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(piece)],
        }
        data += piece
    return with_header(header, data)


def bfloat16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest even, one value at a time; finite values only."""

    def one(value: float) -> int:
        bits = int(np.float32(value).view(np.uint32))
        low, high = bits & 0xFFFF, bits >> 16
        return high + (low > 0x8000 or (low == 0x8000 and high & 1 == 1))

    return np.array([one(v) for v in values.reshape(-1)], np.uint16).reshape(values.shape)


def unpacked(tiles: Array, n_out: int) -> Array:
    """Tiles [n_tiles, n_in, 16] -> row-major [n_out, n_in], by the definition in csrc/s2s.h."""
    assert tiles.ndim == 3 and tiles.shape[0] == math.ceil(n_out / 16) and tiles.shape[2] == 16
    rows = [tiles[o // 16, :, o % 16] for o in range(n_out)]
    rest = tiles.transpose(0, 2, 1).reshape(-1, tiles.shape[1])[n_out:]
    assert not rest.any(), "the padding must be zero"
    return np.stack(rows)


def assert_same_tensors(a: Checkpoint, b: Checkpoint) -> None:
    assert list(a.tensors) == list(b.tensors)
    for name in a.tensors:
        assert np.array_equal(a.tensors[name], b.tensors[name]), name


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


def build(checkpoint: Checkpoint) -> None:
    """What `s2s_infer.load` does with a checkpoint: the core checks names and shapes."""
    from s2s_infer import _core

    _core.Model(checkpoint.config.to_core(), checkpoint.tensors)


def load_and_build(path: Path) -> None:
    """Open all of it, the tokenizer too, which a native file opens when it is first used."""
    checkpoint = load_checkpoint(path)
    build(checkpoint)
    if checkpoint.tokenizer is not None:
        assert checkpoint.tokenizer.token_id("no such token") is None


def refusal(load: Callable[[], Any]) -> str:
    """The message of the ModelError that `load` must raise; one sentence."""
    with pytest.raises(ModelError) as error:
        load()
    message = str(error.value)
    assert message.endswith((".", "?")) and "\n" not in message and len(message) < 1000
    return message
