"""The tensors of a Hugging Face directory, whichever files they are in, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..formats.files import read_json_object, shown
from ..formats.safetensors import SafetensorsFile, open_safetensors

Matrix = npt.NDArray[np.float32]

MAX_SHARDS = 10_000


class Weights:
    """Name -> float32 array; remembers what was asked for, so that nothing is left out unseen."""

    def __init__(self, path: Path, readers: dict[str, Callable[[], tuple[str, npt.NDArray[Any]]]]):
        self._path = path
        self._readers = readers
        self._unused = set(readers)

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def has_prefix(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._readers)

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._readers if name.startswith(prefix)]

    def get(self, name: str, *shape: int) -> Matrix:
        """The tensor `name` of the given shape as float32.  Raises ModelError."""
        if name not in self._readers:
            raise ModelError(f"{self._path} lacks the tensor {shown(name)}.")
        self._unused.discard(name)
        dtype, array = self._readers[name]()
        if array.shape != shape:
            raise ModelError(
                f"{self._path} has the tensor {shown(name)} of shape {list(array.shape)}, but its "
                f"config asks for {list(shape)}."
            )
        return to_float32(dtype, array, name)

    def check_all_used(self, ignored: Iterable[str] = ()) -> None:
        """Raise ModelError if a tensor was never asked for, the ignored ones apart."""
        unknown = sorted(self._unused - set(ignored))
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ModelError(
                f"{self._path} has the tensor {unknown[0]!r}{more}, which this kind of model does "
                "not use."
            )


def to_float32(dtype: str, array: npt.NDArray[Any], name: str) -> Matrix:
    """Exact for F32, F16 and BF16 (its bits as uint16); F64 is rounded.  Raises ModelError."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype not in ("F32", "F16", "F64"):
        raise ModelError(
            f"the tensor {shown(name)} is of {dtype}, but weights must be F32, F16 or BF16."
        )
    with np.errstate(over="ignore"):  # an F64 beyond float32 becomes infinite, as it does in torch
        return np.asarray(array, np.float32, order="C")


def open_weights(path: Path) -> Weights:
    """The weights of a directory: model.safetensors, else pytorch_model.bin, each also in shards.

    Raises ModelError.
    """
    for name, reader in (("model.safetensors", _safetensors), ("pytorch_model.bin", _torch)):
        if (path / name).exists():
            return Weights(path, reader(path / name))
        index = path / f"{name}.index.json"
        if index.exists():
            return Weights(path, _sharded(index, reader))
    others = [n for n in ("tf_model.h5", "flax_model.msgpack", "model.npz") if (path / n).exists()]
    found = f"; it has {others[0]}, which is not supported." if others else "."
    raise ModelError(f"{path} has neither model.safetensors nor pytorch_model.bin{found}")


_Readers = dict[str, Callable[[], tuple[str, npt.NDArray[Any]]]]


def _safetensors(path: Path) -> _Readers:
    file = open_safetensors(path)

    def reader(file: SafetensorsFile, name: str) -> Callable[[], tuple[str, npt.NDArray[Any]]]:
        return lambda: (file.entries[name].dtype, file.array(name))

    return {name: reader(file, name) for name in file.entries}


def _torch(path: Path) -> _Readers:
    from ..formats.torch_file import TorchTensor, read_torch_file

    def reader(tensor: TorchTensor) -> Callable[[], tuple[str, npt.NDArray[Any]]]:
        return lambda: tensor

    return {name: reader(tensor) for name, tensor in read_torch_file(path).items()}


def _sharded(index: Path, read: Callable[[Path], _Readers]) -> _Readers:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise ModelError(f"{index} must have a weight_map from tensor names to file names.")
    files = sorted(set(weight_map.values()))
    if len(files) > MAX_SHARDS:
        raise ModelError(f"{index} names {len(files)} files, more than {MAX_SHARDS}.")
    shards: dict[str, _Readers] = {}
    for file in files:
        # A shard lies beside its index: a path would let a checkpoint read other files.
        if (
            not file
            or "/" in file
            or "\\" in file
            or ":" in file
            or "\0" in file
            or file in (".", "..")
        ):
            raise ModelError(
                f"{index} names the file {shown(file)}, which is not a plain file name."
            )
        shards[file] = read(index.parent / file)
    for file, readers in shards.items():
        for name in readers:
            if weight_map.get(name) != file:
                raise ModelError(
                    f"{index} does not say that the tensor {shown(name)} is in {shown(file)}."
                )
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise ModelError(
                f"{index} says that the tensor {shown(name)} is in {shown(file)}, but it is not."
            )
    return {name: shards[file][name] for name, file in weight_map.items()}
