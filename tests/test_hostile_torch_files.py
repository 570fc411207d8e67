"""pytorch_model.bin files made to harm: nothing is executed, always a ModelError with the cause."""

from __future__ import annotations

import io
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint_files import (
    CHECKPOINTS,
    refusal,
    tar_bytes,
)
from s2s_infer.errors import ModelError
from s2s_infer.formats.torch_file import read_torch_file

TORCH = CHECKPOINTS / "marian-torch" / "pytorch_model.bin"


class Bomb:
    """Its pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def archive(
    data: bytes,
    *,
    storages: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
    byteorder: bytes = b"little",
    name: str = "archive/data.pkl",
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr(name, data)
        file.writestr("archive/byteorder", byteorder)
        for key, content in (storages or {}).items():
            file.writestr(f"archive/data/{key}", content)
    return buffer.getvalue()


def torch_storage(key: bytes, n_elements: int) -> bytes:
    """The persistent id of a float storage and the operation that resolves it."""
    kind = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    key = b"X" + len(key).to_bytes(4, "little") + key
    return kind + key + b"X\x03\x00\x00\x00cpuK" + bytes([n_elements]) + b"tQ"


def torch_pickle(**replacements: bytes) -> bytes:
    """{"a": a float tensor [2, 3] on storage "0" of 6 elements}, with parts of it replaced."""
    parts = {
        "module": b"ctorch._utils\n_rebuild_tensor_v2\n",
        "mark": b"(",
        "storage": torch_storage(b"0", 6),
        "offset": b"K\x00",
        "shape": b"K\x02K\x03\x86",
        "strides": b"K\x03K\x01\x86",
        "rest": b"\x89ccollections\nOrderedDict\n)R",
        "end": b"tR",
        **replacements,
    }
    return b"\x80\x02}X\x01\x00\x00\x00a" + b"".join(parts.values()) + b"s."


FLOATS = np.arange(6, dtype="<f4").tobytes()
EXECUTED: list[str] = []


def executed(*arguments: Any) -> None:
    EXECUTED.append("executed")


PICKLES: list[tuple[bytes, str]] = [
    (pickle.dumps(Bomb(executed), 2), "asks for .*executed.*it was not executed"),
    (pickle.dumps(Bomb(executed), 4), "pickle operation FRAME"),
    (pickle.dumps(Bomb(executed), 0), "pickle operation"),
    (pickle.dumps({"a": Bomb(eval, "1/0")}, 2), r"asks for (__builtin__|builtins)\.eval"),
    (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", r"asks for os\.system"),
    (b"\x80\x02ctorch\nload\n.", r"asks for torch\.load"),
    (b"\x80\x02ctorch._utils\n_rebuild_tensor\n.", "asks for torch._utils._rebuild_tensor,"),
    (b"\x80\x02ccollections\nOrderedDict.__init__\n.", "asks for collections.OrderedDict.__init__"),
    (b"\x80\x02\x8c\x02os\x8c\x06system\x93.", "pickle operation STACK_GLOBAL"),
    (b"\x80\x02(ios\nsystem\n.", "pickle operation INST"),
    (b"\x80\x02(cos\nsystem\no.", "pickle operation OBJ"),
    (b"\x80\x02\x82\x01.", "pickle operation EXT1"),
    (b"\x80\x02X\x01\x00\x00\x00aB\xff\xff\xff\x7fa.", "pickle operation BINBYTES|not a sound"),
    (b"\x80\x02}r\xff\xff\xff\x7f.", "memo number 2147483647"),
    (b"\x80\x02}q\x05.", "memo number 5"),
    (b"\x80\x02K\x05.", "holds a int, not a state dict"),
    (b"\x80\x02].", "holds a list, not a state dict"),
    (b"\x80\x02}K\x05K\x06s.", "holds 5: int, but a state dict maps names to tensors"),
    (b"\x80\x02}", "is not a sound PyTorch checkpoint"),
    (b"", "is not a sound PyTorch checkpoint"),
    (b"garbage", "is not a sound PyTorch checkpoint"),
    (torch_pickle(shape=b"K\x02K\x04\x86"), "places tensor 'a' beyond its storage"),
    (torch_pickle(offset=b"K\x01"), "places tensor 'a' beyond its storage"),
    (torch_pickle(strides=b"K\xffK\xff\x86"), "places tensor 'a' beyond its storage"),
    (torch_pickle(offset=b"J\xff\xff\xff\xff"), "a tensor without storage, offset"),
    (torch_pickle(strides=b"J\xff\xff\xff\xffK\x01\x86"), "a tensor without storage, offset"),
    (torch_pickle(strides=b"K\x01\x85"), "a tensor without storage, offset"),
    (torch_pickle(shape=b"NN\x86"), "a tensor without storage, offset"),
    (torch_pickle(storage=b"N"), "a tensor without storage, offset"),
    (torch_pickle(mark=b"(tR", end=b"t\x86"), "a tensor with too few arguments|not a sound"),
    (
        # a stride of 0 would make a terabyte of four bytes
        torch_pickle(shape=b"J\x00\x00\x00\x40J\x00\x01\x00\x00\x86", strides=b"K\x00K\x00\x86"),
        "places tensor 'a' beyond its storage",
    ),
    (
        torch_pickle(storage=torch_storage(b"0", 7)),
        "7 elements, but 24 bytes",
    ),
    (
        torch_pickle(storage=torch_storage(b"..", 6)),
        "lacks the data of tensor 'a'",
    ),
    (torch_pickle(storage=b"(X\x07\x00\x00\x00storageNNNNtQ"), "a storage without type"),
    (torch_pickle(storage=b"(X\x05\x00\x00\x00otherNNNNtQ"), "an unknown kind of persistent"),
    (torch_pickle(storage=b"NQ"), "an unknown kind of persistent"),
    (torch_pickle(end=b"tR}b"), "is not a sound PyTorch checkpoint|holds 'a'"),
    (torch_pickle(end=b"tR}X\x04\x00\x00\x00sizeK\x01sb"), "is not a sound PyTorch checkpoint"),
]


@pytest.mark.parametrize("number", range(len(PICKLES)))
def test_a_pickle_that_is_no_state_dict(number: int, tmp_path: Path) -> None:
    data, message = PICKLES[number]
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(archive(data, storages={"0": FLOATS}))
    with pytest.raises(ModelError, match=message):
        read_torch_file(path)
    assert not EXECUTED


def test_the_pickles_start_from_a_sound_one(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(archive(torch_pickle(), storages={"0": FLOATS}))
    read = read_torch_file(path)
    assert read["a"].dtype == "F32"
    assert np.array_equal(read["a"].array, np.arange(6, dtype=np.float32).reshape(2, 3))


ARCHIVES: list[tuple[bytes, str]] = [
    (b"", "is an empty file, not a PyTorch checkpoint of version 1.6 or later"),
    (pickle.dumps({"a": 1}, 2), "is a Python pickle, not a PyTorch checkpoint of version 1.6"),
    (
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
        "is a PyTorch file of before version 1.6, not .* save it anew as model.safetensors",
    ),
    (tar_bytes(), "is a tar archive, not a PyTorch checkpoint"),
    (b"version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
    (b"PK\x03\x04" + bytes(50), "is not a sound PyTorch checkpoint"),
    (archive(torch_pickle(), name="other"), "zip archive with 0 members data.pkl"),
    (
        archive(torch_pickle(), compression=zipfile.ZIP_DEFLATED),
        "has the compressed member 'archive/data.pkl'",
    ),
    (archive(torch_pickle(), byteorder=b"big"), "holds big-endian data"),
    (archive(torch_pickle()), "lacks the data of tensor 'a'"),
    (archive(torch_pickle(), storages={"0": FLOATS[:-1]}), "6 elements, but 23 bytes"),
    (
        archive(torch_pickle(), storages={"0": FLOATS, "1/data.pkl": b""}),
        "zip archive with 2 members data.pkl",
    ),
]


@pytest.mark.parametrize("number", range(len(ARCHIVES)))
def test_an_archive_that_is_no_checkpoint(number: int, tmp_path: Path) -> None:
    data, message = ARCHIVES[number]
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(ModelError, match=message):
        read_torch_file(tmp_path / "pytorch_model.bin")


def test_truncated_and_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    sound = TORCH.read_bytes()
    rng = random.Random(5)
    for _ in range(60):
        path.write_bytes(sound[: rng.randrange(len(sound))])
        refusal(lambda: read_torch_file(path))
    for _ in range(150):
        data = bytearray(sound)
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.choice((rng.randrange(6000), len(data) - 1 - rng.randrange(6000)))
            data[at] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read_torch_file(path)
        except ModelError as error:
            assert str(error)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_fuzzed_pickles(data: st.DataObject, tmp_path: Path) -> None:
    """Pickles of the allowed operations in any order, and changed ones of a state dict."""
    if data.draw(st.booleans()):
        sound = bytearray(torch_pickle())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(2, len(sound) - 2))
            sound[at] = data.draw(st.integers(0, 255))
        stream = bytes(sound)
    else:
        operation = st.sampled_from(
            [
                *(bytes([c]) for c in b"(01}])t\x85\x86\x87aesuNRbQ\x88\x89"),
                *(b"K\x01", b"K\x00", b"X\x01\x00\x00\x00a", b"q\x00", b"h\x00", b"G" + bytes(8)),
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"ctorch._utils\n_rebuild_parameter\n",
                b"ccollections\nOrderedDict\n",
                b"ctorch\nFloatStorage\n",
            ]
        )
        stream = b"\x80\x02" + b"".join(data.draw(st.lists(operation, max_size=30))) + b"."
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(archive(stream, storages={"0": FLOATS}))
    try:
        read_torch_file(path)
    except ModelError as error:
        assert str(error)


def test_a_pickle_leaves_nothing_behind(tmp_path: Path) -> None:
    """BUILD on what a name stands for must not change what it stands for in the next file."""
    path = tmp_path / "pytorch_model.bin"
    names = (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n")
    for name in names:
        path.write_bytes(archive(b"\x80\x02" + name + b"}X\x01\x00\x00\x00xK\x01sb."))
        refusal(lambda: read_torch_file(path))
    path.write_bytes(archive(torch_pickle(), storages={"0": FLOATS}))
    assert read_torch_file(path)["a"].array.shape == (2, 3)


def test_the_reader_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from s2s_infer.loaders import load_checkpoint\n"
        f"assert load_checkpoint({str(TORCH.parent)!r}).config.d_model == 16\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
