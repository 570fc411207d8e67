"""A restricted reader of PyTorch checkpoints (pytorch_model.bin): executes nothing, needs no torch.

Since version 1.6 torch.save writes a zip archive, uncompressed: NAME/data.pkl is a pickle of the
state dict, NAME/data/KEY the bytes of each storage.  The pickle is read in two steps.  First its
opcodes are walked, and anything but those that a state dict of tensors needs is refused.  Then an
unpickler runs whose `find_class` knows exactly the names in `_storage_dtypes` and three functions,
all of which make inert descriptions of tensors; bytes become arrays only afterwards, when every
description was checked.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .files import head_of, reason, shown, what_is

MAX_PICKLE_BYTES = 64 << 20

_ALLOWED = """
PROTO STOP MARK POP_MARK EMPTY_DICT EMPTY_TUPLE EMPTY_LIST TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS
SETITEM SETITEMS NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
SHORT_BINUNICODE GLOBAL BINPUT LONG_BINPUT BINGET LONG_BINGET REDUCE BUILD BINPERSID
"""
_OPCODES = frozenset(_ALLOWED.split())

_storage_dtypes: dict[str, tuple[str, np.dtype[Any]]] = {
    "DoubleStorage": ("F64", np.dtype("<f8")),
    "FloatStorage": ("F32", np.dtype("<f4")),
    "HalfStorage": ("F16", np.dtype("<f2")),
    "BFloat16Storage": ("BF16", np.dtype("<u2")),
    "LongStorage": ("I64", np.dtype("<i8")),
    "IntStorage": ("I32", np.dtype("<i4")),
    "ShortStorage": ("I16", np.dtype("<i2")),
    "CharStorage": ("I8", np.dtype("i1")),
    "ByteStorage": ("U8", np.dtype("u1")),
    "BoolStorage": ("BOOL", np.dtype("?")),
}


class _StorageType(NamedTuple):
    name: str
    dtype: np.dtype[Any]


class _Storage(NamedTuple):
    kind: _StorageType
    key: str
    n_elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchTensor(NamedTuple):
    """dtype by its safetensors name ("BF16": the array holds its bits as uint16)."""

    dtype: str
    array: npt.NDArray[Any]


def read_torch_file(path: Path) -> Mapping[str, TorchTensor]:
    """Name -> tensor of a state dict.  Raises ModelError."""
    head = head_of(path)
    if not head.startswith(b"PK\x03\x04"):
        found = what_is(head) or f"a file that begins with the bytes {head[:8].hex(' ')}"
        raise ModelError(
            f"{path} is {found}, not a PyTorch checkpoint of version 1.6 or later; save it anew as "
            "model.safetensors."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    except ModelError:
        raise
    except Exception as error:  # zipfile and pickle raise a dozen kinds for hostile bytes
        raise ModelError(f"{path} is not a sound PyTorch checkpoint: {reason(error)}.") from error


def _read(archive: zipfile.ZipFile, path: Path) -> Mapping[str, TorchTensor]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise ModelError(f"{path} has the member {shown(info.filename)} twice.")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ModelError(
                f"{path} has the compressed member {shown(info.filename)}; torch.save compresses "
                "nothing."
            )
        members[info.filename] = info
    if sum(info.file_size for info in members.values()) > path.stat().st_size:
        raise ModelError(f"{path} is corrupt: its members overlap.")
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError(
            f"{path} is a zip archive with {len(pickles)} members data.pkl, not a PyTorch "
            "checkpoint."
        )
    root = pickles[0][: -len("data.pkl")]
    order = members.get(root + "byteorder")
    if order is not None and archive.read(order) != b"little":
        raise ModelError(f"{path} holds big-endian data, which is not supported.")
    if members[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise ModelError(f"{path} has a data.pkl of {members[pickles[0]].file_size} bytes.")

    state = _unpickle(archive.read(members[pickles[0]]), path)
    tensors = {}
    storages: dict[str, tuple[_Storage, npt.NDArray[Any]]] = {}
    for name, tensor in state.items():
        key = tensor.storage.key
        if key not in storages:
            member = members.get(f"{root}data/{key}")
            if member is None:
                raise ModelError(f"{path} lacks the data of tensor {shown(name)}.")
            storage = tensor.storage
            if member.file_size != storage.n_elements * storage.kind.dtype.itemsize:
                raise ModelError(
                    f"{path} gives the storage of tensor {shown(name)} {storage.n_elements} "
                    f"elements, but {member.file_size} bytes."
                )
            data = np.frombuffer(archive.read(member), storage.kind.dtype)
            storages[key] = (storage, data)
        storage, data = storages[key]
        if storage != tensor.storage:
            raise ModelError(f"{path} describes the storage of tensor {shown(name)} in two ways.")
        tensors[name] = TorchTensor(tensor.storage.kind.name, _view(tensor, data, name, path))
    return tensors


def _view(tensor: _Tensor, data: npt.NDArray[Any], name: str, path: Path) -> npt.NDArray[Any]:
    n = 1
    last = tensor.offset
    for size, stride in zip(tensor.shape, tensor.strides, strict=True):
        n *= size
        last += max(size - 1, 0) * stride
    # Strides that overlap could make a huge tensor of a small storage; real ones are no larger.
    if n and (last >= data.size or n > data.size):
        raise ModelError(f"{path} places tensor {shown(name)} beyond its storage.")
    if n == 0:
        return np.zeros(tensor.shape, data.dtype)
    return np.lib.stride_tricks.as_strided(
        data[tensor.offset :],
        tensor.shape,
        [stride * data.itemsize for stride in tensor.strides],
        writeable=False,
    )


def _unpickle(data: bytes, path: Path) -> Mapping[str, _Tensor]:
    n_puts = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise ModelError(
                f"{path} holds the pickle operation {opcode.name}, which a checkpoint of tensors "
                "does not need; it was not executed."
            )
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            # torch numbers its memo densely; a huge number would make the unpickler reserve memory.
            n_puts += 1
            if not isinstance(argument, int) or argument > n_puts:
                raise ModelError(f"{path} has a corrupt pickle: memo number {argument}.")
    state = _Unpickler(data, path).load()
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds a {type(state).__name__}, not a state dict of tensors.")
    for name, tensor in state.items():
        if not isinstance(name, str) or type(tensor) is not _Tensor:
            raise ModelError(
                f"{path} holds {shown(name)}: {type(tensor).__name__.lstrip('_')}, but a state "
                "dict maps names to tensors."
            )
    return state


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._path = path
        # Made for each file, so that a pickle cannot leave anything behind on a shared object.
        self._names: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *a: self._tensor(*a),
            ("torch._utils", "_rebuild_parameter"): lambda *a: self._parameter(*a),
            ("collections", "OrderedDict"): OrderedDict,
        }
        for name, (safetensors_name, dtype) in _storage_dtypes.items():
            self._names["torch", name] = _StorageType(safetensors_name, dtype)

    def _bad(self, what: str) -> NoReturn:
        raise ModelError(f"{self._path} has a corrupt pickle: {what}.")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise ModelError(
                f"{self._path} asks for {module}.{name}, which a checkpoint of tensors does not "
                "need; it was not executed."
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            self._bad("an unknown kind of persistent object")
        _, kind, key, _, n = pid
        if type(kind) is not _StorageType or type(key) is not str or not _is_size(n):
            self._bad("a storage without type, key or size")
        return _Storage(kind, key, n)

    def _tensor(self, *arguments: Any) -> _Tensor:
        if len(arguments) < 4:
            self._bad("a tensor with too few arguments")
        storage, offset, shape, strides = arguments[:4]
        if (
            type(storage) is not _Storage
            or not _is_size(offset)
            or type(shape) is not tuple
            or type(strides) is not tuple
            or len(shape) != len(strides)
            or len(shape) > 8
            or not all(map(_is_size, shape + strides))
        ):
            self._bad("a tensor without storage, offset, shape or strides")
        return _Tensor(storage, offset, shape, strides)

    def _parameter(self, *arguments: Any) -> _Tensor:
        if not arguments or type(arguments[0]) is not _Tensor:
            self._bad("a parameter that is no tensor")
        tensor: _Tensor = arguments[0]
        return tensor


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 40
