"""Files that are broken, of another kind or made to harm: always a ModelError with the cause."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint_files import (
    CHECKPOINTS,
    TINY,
    edit_json,
    header_of,
    raw_file,
    read_raw,
    tiny_copy,
    with_header,
)
from s2s_infer.errors import ModelError
from s2s_infer.formats.native import load_native, save_native
from s2s_infer.formats.torch_file import read_torch_file
from s2s_infer.loaders import Checkpoint, load_checkpoint


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint(TINY)


@pytest.fixture(scope="module")
def native_bytes(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("native") / "tiny.s2s"
    save_native(tiny, path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_copy(tmp_path)


def build(checkpoint: Checkpoint) -> None:
    """What `s2s_infer.load` does with a checkpoint: the core checks names and shapes."""
    from s2s_infer import _core

    _core.Model(checkpoint.config.to_core(), checkpoint.tensors)


def refusal(load: Callable[[], Any]) -> str:
    """The message of the ModelError that `load` must raise; one sentence."""
    with pytest.raises(ModelError) as error:
        load()
    message = str(error.value)
    assert message.endswith((".", "?")) and "\n" not in message and len(message) < 1000
    return message


def load_and_build(path: Path) -> None:
    build(load_checkpoint(path))


# ---- the native file: of another kind ----------------------------------------------------------


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


OTHER_KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is an empty file"),
    "one byte": (b"\x01", "begins with the bytes 01"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 99\n",
        "is a git-LFS pointer (fetch it with 'git lfs pull')",
    ),
    "zip": (b"PK\x03\x04" + bytes(100), "is a zip archive, perhaps a PyTorch checkpoint"),
    "pickle 2": (pickle.dumps({"a": [1]}, 2), "is a Python pickle"),
    "pickle 4": (pickle.dumps({"a": [1]}, 4), "is a Python pickle"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "is an HTML page"),
    "html lower": (b"<html lang=en>", "is an HTML page"),
    "json": (b'{"config": 1}', "is a JSON file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "is a gzip archive"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "is a zstandard archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "is an HDF5 file"),
    "gguf": (b"GGUF\x03" + bytes(20), "is a GGUF file"),
    "elf": (b"\x7fELF" + bytes(20), "is an executable"),
    "numpy": (b"\x93NUMPY\x01\x00" + bytes(20), "is a NumPy file"),
    "pdf": (b"%PDF-1.4", "is a PDF document"),
    "tar": (tar_bytes(), "is a tar archive"),
    "zeros": (bytes(1000), "begins with the bytes 00 00"),
    "text": (b"just some text, nothing more", "begins with the bytes 6a 75"),
    "random": (random.Random(3).randbytes(5000), "begins with the bytes"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("place", ["native", "directory"])
def test_files_of_another_kind_are_named(kind: str, place: str, folder: Path) -> None:
    data, message = OTHER_KINDS[kind]
    path = folder / "model.safetensors" if place == "directory" else folder.parent / "x.s2s"
    path.write_bytes(data)
    found = refusal(lambda: load_checkpoint(folder if place == "directory" else path))
    assert str(path) in found and message in found
    assert ("native model file" in found) == (place == "native")


def test_a_length_that_looks_like_something_else_is_a_length(
    tmp_path: Path, tiny: Checkpoint
) -> None:
    """640 bytes of header begin the file like a pickle, 123 like JSON."""
    for n in (0x0280, 0x7B, 0x8B1F):
        text = b'{"__metadata__":{"a":"b"}}'
        text += b" " * (n - len(text))
        (tmp_path / "x.s2s").write_bytes(len(text).to_bytes(8, "little") + text)
        assert "safetensors file of the format None" in refusal(
            lambda: load_native(tmp_path / "x.s2s")
        )


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.s2s")
    assert "is not a regular file" in refusal(lambda: load_checkpoint(tmp_path / "pipe.s2s"))
    assert "is not a regular file" in refusal(lambda: load_checkpoint("/dev/zero"))
    (tmp_path / "loop.s2s").symlink_to("loop.s2s")
    refusal(lambda: load_checkpoint(tmp_path / "loop.s2s"))
    (tmp_path / "gone.s2s").symlink_to("nothing")
    assert "no model at" in refusal(lambda: load_checkpoint(tmp_path / "gone.s2s"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").mkdir()
    assert "config.json" in refusal(lambda: load_checkpoint(tmp_path / "model"))


def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **options: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    assert "config.json cannot be read: Permission denied." in refusal(
        lambda: load_checkpoint(folder)
    )


# ---- the native file: broken -------------------------------------------------------------------


def test_truncation_at_any_offset(native_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.s2s"
    n_header = int.from_bytes(native_bytes[:8], "little")
    rng = random.Random(1)
    offsets = {*range(12), n_header, 8 + n_header - 1, 8 + n_header, 8 + n_header + 1}
    offsets |= {len(native_bytes) - n for n in (1, 2, 63, 64, 65)}
    offsets |= {rng.randrange(len(native_bytes)) for _ in range(100)}
    for offset in sorted(offsets):
        path.write_bytes(native_bytes[:offset])
        message = refusal(lambda: load_native(path))
        assert offset < 9 or "is truncated" in message, (offset, message)


def test_bytes_after_the_end(native_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.s2s").write_bytes(native_bytes + b"\0")
    assert "its tensors end at byte" in refusal(lambda: load_native(tmp_path / "x.s2s"))


def test_flipped_bits_in_the_header_never_crash(native_bytes: bytes, tmp_path: Path) -> None:
    """Any single change of the header either does not matter or is a ModelError."""
    path = tmp_path / "x.s2s"
    n = 8 + int.from_bytes(native_bytes[:8], "little")
    rng = random.Random(2)
    n_refused = 0
    for _ in range(250):
        data = bytearray(native_bytes)
        for _ in range(rng.choice((1, 1, 1, 3))):
            data[rng.randrange(n)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            load_and_build(path)
        except ModelError as error:
            n_refused += 1
            assert str(error)
    assert n_refused > 150


Edit = Callable[[dict[str, Any]], Any]


def metadata(**changes: Any) -> Edit:
    """An edit of the header's metadata; None removes a key."""

    def edit(header: dict[str, Any]) -> None:
        for key, value in changes.items():
            header["__metadata__"][key] = value
            if value is None:
                del header["__metadata__"][key]

    return edit


def config(path: str, value: Any) -> Edit:
    """An edit of one field of the config, "encoder.n_heads" say; ... removes it."""

    def edit(header: dict[str, Any]) -> None:
        values = json.loads(header["__metadata__"]["config"])
        *parents, key = path.split(".")
        inner = values
        for parent in parents:
            inner = inner[parent]
        inner[key] = value
        if value is ...:
            del inner[key]
        header["__metadata__"]["config"] = json.dumps(values)

    return edit


def described(key: str, **changes: Any) -> Edit:
    """An edit of a JSON object in the metadata."""

    def edit(header: dict[str, Any]) -> None:
        values = {**json.loads(header["__metadata__"][key]), **changes}
        header["__metadata__"][key] = json.dumps(values)

    return edit


def entry(name: str, **changes: Any) -> Edit:
    def edit(header: dict[str, Any]) -> None:
        header[name].update(changes)

    return edit


def renamed(old: str, new: str) -> Edit:
    def edit(header: dict[str, Any]) -> None:
        header[new] = header.pop(old)

    return edit


UP = "encoder.0.ffn.up.weight"
NATIVE_EDITS: list[tuple[Edit, str]] = [
    (metadata(format="pt"), "safetensors file of the format 'pt', not a native model file"),
    (metadata(format=None), "of the format None"),
    (metadata(version="2"), r"of version '2', but this build reads version '1'"),
    (metadata(version=None), "of version None"),
    (metadata(config=None), "lacks config"),
    (metadata(family=None), "lacks family"),
    (metadata(dtype="int8"), "dtype 'int8'; this build knows float32, bfloat16"),
    (metadata(config="{"), "config in the header of .* is not valid JSON"),
    (metadata(config="[]"), "config must be a mapping"),
    (metadata(config="NaN"), "contains NaN, which is not a number"),
    (metadata(config="[" * 100000), "nested too deeply|not valid JSON"),
    (metadata(config=7), "does not map text to text"),
    (metadata(generation='{"num_beams": 0}'), "num_beams"),
    (metadata(generation="3"), "must be a mapping"),
    (metadata(special_tokens="{}"), "the special tokens lacks? field"),
    (metadata(tokenizer="{}"), "a tokenizer without kind and settings"),
    (metadata(tokenizer='{"kind": "x", "settings": {}}'), "unknown tokenizer kind 'x'"),
    (metadata(tokenizer='{"kind": ["x"], "settings": {}}'), "without kind and settings"),
    (metadata(tokenizer='{"kind": "json", "settings": {}}'), "needs tokenizer.json"),
    (config("d_model", 64), r"shared\.embed|encoder\."),
    (config("d_model", 0), "d_model must be an integer of at least 1, not 0"),
    (config("d_model", -1), "d_model"),
    (config("d_model", 2**31), "d_model"),
    (config("d_model", 1.5), "d_model"),
    (config("vocab_size", 98), "the id 98, but"),
    (config("vocab_size", 1000), r"shared\.embed"),
    (config("encoder.n_layers", 3), r"encoder\.2\."),
    (config("encoder.n_layers", 1), r"encoder\.1\."),
    (config("encoder.n_layers", 2**31 - 1), r"encoder\."),
    (config("encoder.n_heads", 3), "n_kv_heads = 4 does not divide n_heads = 3"),
    (config("encoder.d_head", 2**31 - 1), "d_head|encoder"),
    (config("encoder.activation", "mish"), "activation must be one of .*, not 'mish'"),
    (config("encoder.positions", "learned"), r"encoder\.positions"),
    (config("encoder.max_positions", 2**31 - 1), "max_positions 2147483647 .* absurd"),
    (config("encoder.embed_scale", float("nan")), "contains NaN"),
    (config("encoder.embed_scale", 0), "embed_scale must be a positive number, not 0"),
    (config("encoder.norm_eps", -1e-5), "norm_eps must be a positive number"),
    (config("encoder.window", 8), "encoder.window must be 0"),
    (config("encoder.window", ...), "lacks field 'window'"),
    (config("encoder.more", 1), "has the unknown field 'more'"),
    (config("output_bias", False), r"output\.bias"),
    (described("special_tokens", start=10**6), "start token has the id 1000000"),
    (described("special_tokens", start=-1), "SpecialTokens.start"),
    (described("special_tokens", end=[0, 5000]), "end token has the id 5000"),
    (described("special_tokens", languages={"en": 5000}), "language token has the id 5000"),
    (described("special_tokens", languages=3), "languages must map codes to ids"),
    (described("generation", eos_token_id=[5000]), "eos_token_id has the id 5000"),
    (described("generation", typical_p=0.5), "typical_p"),
    (entry(UP, dtype="F16"), "but it has"),
    (entry(UP, dtype="F8_E4M3"), "unknown dtype 'F8_E4M3'"),
    (entry(UP, dtype=["F32"]), r"unknown dtype \['F32'\]"),
    (entry(UP, dtype="I32"), "of I32, not F32 or BF16"),
    (entry(UP, shape=[3, 16, 32]), "encoder.0.ffn.up.weight"),
    (entry(UP, shape=[3 * 32 * 16]), "encoder.0.ffn.up.weight"),
    (entry(UP, shape=[-3, -32, 16]), r"the bad shape \[-3, -32, 16\]"),
    (entry(UP, shape=[2**63, 2**63, 2**63]), "the bad shape"),
    (entry(UP, shape=[2**61, 2**61, 0]), "but it has 0 bytes"),
    (entry(UP, shape=[True, 32, 48]), "the bad shape"),
    (entry(UP, shape=[3.0, 32, 16]), "the bad shape"),
    (entry(UP, shape=[1] * 40), "the bad shape"),
    (entry(UP, shape="3"), "the bad shape '3'"),
    (entry(UP, data_offsets=[0, 2**70]), "bad data_offsets"),
    (entry(UP, data_offsets=[-64, 0]), "bad data_offsets"),
    (entry(UP, data_offsets=[64, 0]), "but it has"),
    (entry(UP, data_offsets=[0]), "bad data_offsets"),
    (entry(UP, data_offsets=None), "bad data_offsets"),
    (entry(UP, data_offsets=[0, 3 * 32 * 16 * 4]), "overlaps the one before|leaves a hole"),
    (entry(UP, data_offsets=[10**9, 10**9 + 3 * 32 * 16 * 4]), "leaves a hole"),
    (entry(UP, extra=1), "by dtype, shape and data_offsets only"),
    (lambda header: header.update({UP: 5}), "by dtype, shape and data_offsets only"),
    (lambda header: header.pop(UP), "leaves a hole before it"),
    (lambda header: header.update({"copy": header[UP]}), "overlaps the one before it"),
    (lambda header: header.update(__metadata__=[]), "does not map text to text"),
    (renamed(UP, "encoder.0.ffn.up.wait"), r"encoder\.0\.ffn\.up\.wai|encoder\.0\.ffn\.up\.weight"),
    (renamed(UP, "x" * 10**6), "a tensor whose name has 1000000 characters"),
    (entry(UP, dtype="x" * 10**6), r"the unknown dtype 'xxx.*x\.\.\.\.$"),
    (entry(UP, shape=[1] * 10**5), r"the bad shape \[1, .*\.\.\.\.$"),
    (metadata(version="9" * 10**6), r"of version '999"),
    (
        metadata(tokenizer=json.dumps({"kind": "k" * 10**6, "settings": {}})),
        "unknown tokenizer kind",
    ),
    (renamed(UP, "a\0b"), r"whose name 'a\\x00b' is no text"),
    (renamed(UP, "\ud800"), r"whose name '\\ud800' is no text"),
    (renamed(UP, "encoder.positions"), "holds 'encoder.positions', but its config says"),
    (renamed("tokenizer.vocab.json", "tokenizer.vocab"), "needs source.spm and vocab.json"),
    (renamed("tokenizer.source.spm", "padding.99"), "needs source.spm and vocab.json"),
    (entry("tokenizer.vocab.json", dtype="I8"), "of I8 .*, not bytes"),
]


@pytest.mark.parametrize("number", range(len(NATIVE_EDITS)))
def test_a_header_that_cannot_be(number: int, native_bytes: bytes, tmp_path: Path) -> None:
    edit, message = NATIVE_EDITS[number]
    header, data = header_of(native_bytes)
    edit(header)
    path = tmp_path / "x.s2s"
    path.write_bytes(with_header(header, data))
    with pytest.raises(ModelError, match=message) as error:
        load_and_build(path)
    assert len(str(error.value)) < 1000


def test_the_edits_start_from_a_sound_file(native_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.s2s"
    path.write_bytes(with_header(*header_of(native_bytes)))
    load_and_build(path)


def test_headers_that_are_no_json(native_bytes: bytes, tmp_path: Path) -> None:
    header, data = header_of(native_bytes)
    text = json.dumps(header).encode()
    path = tmp_path / "x.s2s"
    for bad, message in (
        (b"{" + b"\xff" * 50, "is not UTF-8 text: byte 0xff at offset 1"),
        (b"{" * 20000, "nested too deeply|not valid JSON"),
        (b'{"a":' * 5000 + b"1", "nested too deeply|not valid JSON"),
        (text[:-1], "not valid JSON"),
        (text[:-1] + b',"x":Infinity}', "contains Infinity"),
        (text[:-1] + b',"' + UP.encode() + b'":{}}', f"has the key '{UP}' twice"),
        (text[:-1] + b',"x":' + b"9" * 10000 + b"}", "not valid JSON|describe tensor 'x'"),
    ):
        path.write_bytes(with_header(bad, data))
        with pytest.raises(ModelError, match=message):
            load_native(path)


def test_absurd_header_lengths(native_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.s2s"
    for n in (0, 1, 7, 10**6, 100_000_001, 2**31, 2**32 - 1, 2**63, 2**64 - 1):
        path.write_bytes(n.to_bytes(8, "little") + native_bytes[8:])
        refusal(lambda: load_native(path))


def test_misaligned_tiles(native_bytes: bytes, tmp_path: Path) -> None:
    header, data = header_of(native_bytes)
    path = tmp_path / "x.s2s"
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64 + 4)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert "which is not a multiple of 64" in refusal(lambda: load_native(path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_fuzzed_headers(data: st.DataObject, native_bytes: bytes, tmp_path: Path) -> None:
    """Values anywhere in the header are replaced by arbitrary ones."""
    header, body = header_of(native_bytes)
    for key in ("config", "special_tokens", "generation", "tokenizer"):
        header["__metadata__"][key] = json.loads(header["__metadata__"][key])
    for _ in range(data.draw(st.integers(1, 2))):
        node: Any = header
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = data.draw(st.sampled_from(keys))
            child = node[key]
            if isinstance(child, (dict, list)) and child and data.draw(st.integers(0, 4)):
                node = child
                continue
            node[key] = data.draw(json_values)
            break
        if not isinstance(header.get("__metadata__"), dict):
            break
    if isinstance(header["__metadata__"], dict):
        for key in ("config", "special_tokens", "generation", "tokenizer"):
            if key in header["__metadata__"] and data.draw(st.integers(0, 9)):
                header["__metadata__"][key] = json.dumps(header["__metadata__"][key])
    (tmp_path / "x.s2s").write_bytes(with_header(header, body))
    try:
        load_and_build(tmp_path / "x.s2s")
    except ModelError as error:
        assert str(error)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=400), prefix=st.booleans())
def test_fuzzed_bytes(data: bytes, prefix: bool, tmp_path: Path) -> None:
    if prefix:
        data = len(data).to_bytes(8, "little") + b"{" + data
    (tmp_path / "x.s2s").write_bytes(data)
    refusal(lambda: load_native(tmp_path / "x.s2s"))


# ---- directories -------------------------------------------------------------------------------


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(name: str, n: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n]) and None


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def tensor(name: str, dtype: str | None, array: Any = None) -> Callable[[Path], None]:
    """Replace a tensor of model.safetensors; dtype None removes it."""

    def change(folder: Path) -> None:
        tensors = read_raw(folder / "model.safetensors")
        tensors.pop(name, None)
        if dtype is not None:
            tensors[name] = (dtype, np.asarray(array))
        (folder / "model.safetensors").write_bytes(raw_file(tensors))

    return change


def index(weight_map: Any, **more: Any) -> Callable[[Path], None]:
    """Shards instead of model.safetensors: the index, and files of raw bytes."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "all.safetensors")
        (folder.parent / "outside.safetensors").write_bytes(b"secret")
        edit_json(folder / "model.safetensors.index.json", weight_map=weight_map, **more)

    return change


def vocab(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "vocab.json", **changes)


def shuffled_vocab(folder: Path) -> None:
    """The vocabulary of another model: the same size, other pieces."""
    names = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    others = {
        (name if i < 4 or name == "<pad>" else f"other{i}"): i for i, name in enumerate(names)
    }
    (folder / "vocab.json").write_text(json.dumps(others), encoding="utf-8")


def tokenizer_config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer_config.json", **changes)


SHARED = "model.shared.weight"
Q = "model.encoder.layers.0.self_attn.q_proj.weight"
DIRECTORIES: list[tuple[Callable[[Path], None], str]] = [
    (write("config.json", b""), r"config\.json is an empty file, not JSON"),
    (write("config.json", b"{"), r"config\.json is not valid JSON"),
    (write("config.json", b"[]"), "must hold a JSON object, not list"),
    (write("config.json", b"null"), "must hold a JSON object, not NoneType"),
    (write("config.json", b"\xff\xfe{\x00}\x00"), "is not UTF-8 text: byte 0xff at offset 0"),
    (write("config.json", b'{"d_model": NaN}'), "contains NaN, which is not a number"),
    (write("config.json", b'{"d_model": 1, "d_model": 2}'), "has the key 'd_model' twice"),
    (write("config.json", b"[" * 200000), "nested too deeply"),
    (write("config.json", b'{"a": ' + b"1" * 6000 + b"}"), "not valid JSON|model_type"),
    (write("config.json", b"<html>not found</html>"), "is an HTML page, not JSON"),
    (
        write("config.json", b"version https://git-lfs.github.com/spec/v1\n"),
        "config.json is a git-LFS pointer",
    ),
    (write("config.json", b'{"model_type": "' + b"x" * 10**6 + b'"}'), "has the model_type 'xxx"),
    (
        write("config.json", b'{"model_type": "marian", "d_model": [' + b"1," * 10**5 + b"1]}"),
        "d_model",
    ),
    (vocab(**{"x" * 10**6: -1}), "gives token 'xxx.* the id -1"),
    (link("config.json", "config.json"), r"no config\.json|cannot be read"),
    (write("generation_config.json", b"[1]"), "must hold a JSON object, not list"),
    (write("generation_config.json", b'{"num_beams": 1e999}'), "num_beams|Infinity"),
    (cut("model.safetensors", 100), "is truncated"),
    (cut("model.safetensors", 5000), "is truncated"),
    (cut("model.safetensors", -1), "is truncated"),
    (tensor(SHARED, None), f"lacks the tensor '.*encoder.embed_tokens.weight'|lacks .*{SHARED}"),
    (tensor(Q, None), f"lacks the tensor '{Q}'"),
    (tensor(Q, "F32", np.ones((32, 31), "<f4")), r"of shape \[32, 31\], but its config asks for"),
    (tensor(Q, "F32", np.ones((1024,), "<f4")), r"of shape \[1024\]"),
    (tensor(Q, "I8", np.ones((32, 32), "i1")), "is of I8, but weights must be F32, F16 or BF16"),
    (tensor("model.encoder.layers.0.extra", "F32", np.ones(1, "<f4")), "which this kind of model"),
    (tensor("final_logits_bias", "F32", np.ones(99, "<f4")), r"final_logits_bias' of shape \[99\]"),
    (index({}), "lacks the tensor"),
    (index(None), "must have a weight_map"),
    (index([SHARED]), "must have a weight_map"),
    (index({SHARED: 3}), "must have a weight_map"),
    (index({SHARED: "../outside.safetensors"}), "names the file '../outside.safetensors', which"),
    (index({SHARED: "/etc/passwd"}), "names the file '/etc/passwd', which is not a plain file"),
    (index({SHARED: ".."}), "names the file '..', which is not a plain file name"),
    (index({SHARED: ""}), "names the file '', which is not a plain file name"),
    (index({SHARED: "a\0b"}), "not a plain file name"),
    (index({SHARED: "C:\\x"}), "not a plain file name"),
    (index({SHARED: "no.safetensors"}), r"there is no file .*no\.safetensors"),
    (index({SHARED: "all.safetensors"}), "does not say that the tensor"),
    (index({SHARED: "config.json"}), "is a JSON file, not a safetensors file"),
    (index({f"t{i}": f"f{i}" for i in range(10001)}), "names 10001 files"),
    (write("source.spm", b""), "source.spm is an empty file, not a sentencepiece model"),
    (write("source.spm", b"\x00" * 100), "source.spm is not a sentencepiece model"),
    (
        write("source.spm", b"version https://git-lfs.github.com/spec/v1\n"),
        "source.spm is a git-LFS",
    ),
    (write("source.spm", random.Random(1).randbytes(3000)), "source.spm is not a sentencepiece"),
    (cut("target.spm", 700), "target.spm is not a sentencepiece model|does not belong"),
    (write("vocab.json", b"{}"), "vocab.json must map tokens to ids"),
    (write("vocab.json", b"[1]"), "vocab.json must map tokens to ids"),
    (write("vocab.json", b'{"<unk>": 1'), "vocab.json is not valid JSON"),
    (write("vocab.json", b"\xff"), "vocab.json is not UTF-8"),
    (write("vocab.json", b'{"</s>": 0, "<unk>": 1}'), "vocab.json does not belong to source.spm"),
    (write("vocab.json", b'{"</s>": 0, "\\ud800": 1}'), "a token with a lone surrogate"),
    (shuffled_vocab, "vocab.json does not belong to source.spm: it has only"),
    (vocab(more=99), "gives token 'more' the id 99, but the model's vocabulary has 99 tokens"),
    (vocab(more=10**12), "gives token 'more' the id 1000000000000"),
    (vocab(more=-1), "gives token 'more' the id -1"),
    (vocab(more=1.5), r"gives token 'more' the id 1\.5"),
    (vocab(more="x"), "gives token 'more' the id 'x'"),
    (vocab(more=True), "gives token 'more' the id True"),
    (vocab(more=5), "and 'more' the one id 5"),
    (vocab(**{"<unk>": None}), "has no token '<unk>'"),
    (vocab(**{"</s>": None}), "has no token '</s>'"),
    (tokenizer_config(eos_token="<nothing>"), "has no token '<nothing>'"),
    (tokenizer_config(pad_token="<nothing>"), "gives token '<nothing>' the id 99"),
    (tokenizer_config(unk_token=5), "sets unk_token to 5, which is not a token"),
    (tokenizer_config(separate_vocabs=True), r"there is no file .*target_vocab\.json"),
    (tokenizer_config(separate_vocabs="x"), "sets separate_vocabs to 'x'"),
    (tokenizer_config(sp_model_kwargs={"enable_sampling": True}), "sp_model_kwargs, which is not"),
    (tokenizer_config(split_special_tokens=3), "split_special_tokens to 3"),
    (tokenizer_config(extra_special_tokens=["x", 5]), "extra_special_tokens to 5"),
    (tokenizer_config(extra_special_tokens="x"), "extra_special_tokens to 'x', not a list"),
    (tokenizer_config(extra_special_tokens=["<beyond>"]), "'<beyond>' the id 99"),
    (tokenizer_config(added_tokens_decoder=[1]), r"added_tokens_decoder to \[1\]"),
    (tokenizer_config(added_tokens_decoder={"x": "y"}), "the id 'x' in added_tokens_decoder"),
    (tokenizer_config(added_tokens_decoder={"5": 5}), "added_tokens_decoder to 5"),
    (tokenizer_config(added_tokens_decoder={"5000": {"content": "z"}}), "'z' the id 5000"),
    (
        tokenizer_config(added_tokens_decoder={"5": {"content": "z", "lstrip": True}}),
        "sets lstrip for a token of added_tokens_decoder, which is not supported",
    ),
    (write("tokenizer_config.json", b"\x80"), "is not UTF-8"),
]


@pytest.mark.parametrize("number", range(len(DIRECTORIES)))
def test_a_directory_that_cannot_be(number: int, folder: Path) -> None:
    change, message = DIRECTORIES[number]
    change(folder)
    with pytest.raises(ModelError, match=message) as error:
        load_checkpoint(folder)
    text = str(error.value)
    assert text.endswith((".", "?")) and "\n" not in text and len(text) < 1000


@pytest.mark.parametrize("damage", ["spm", "vocab"])
def test_flipped_bytes_of_tokenizer_files(damage: str, folder: Path) -> None:
    """A model that still loads must encode and decode, or say what is wrong with it."""
    name = {"spm": "source.spm", "vocab": "vocab.json"}[damage]
    sound = (folder / name).read_bytes()
    rng = random.Random(4)
    for _ in range(60):
        data = bytearray(sound)
        for _ in range(rng.choice((1, 2, 5))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / name).write_bytes(data)
        try:
            tokenizer = load_checkpoint(folder).tokenizer
            assert tokenizer is not None
            ids = tokenizer.encode_source("今天天气很好。 The weather ① é")
            tokenizer.decode(ids)
        except ModelError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file, not JSON"),
        (b"{}", "is not a tokenizer"),
        (b"[]", "is not a tokenizer"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}', "is not a tokenizer"),
        (b'{"version": "1.0", "model": {"type": "Nothing"}}', "is not a tokenizer"),
        (b'{"model": NaN}', "contains NaN"),
        (b"\xff", "is not UTF-8"),
        (b"PK\x03\x04", "is a zip archive"),
    ],
)
def test_a_tokenizer_json_that_cannot_be(data: bytes, message: str, folder: Path) -> None:
    (folder / "source.spm").unlink()
    (folder / "tokenizer.json").write_bytes(data)
    assert message in refusal(lambda: load_checkpoint(folder))


def test_a_tokenizer_json_of_another_model(folder: Path) -> None:
    (folder / "source.spm").unlink()
    shutil.copy(CHECKPOINTS / "bpe" / "tokenizer.json", folder)
    assert "but the model's vocabulary has 99 tokens" in refusal(lambda: load_checkpoint(folder))


# ---- pytorch_model.bin -------------------------------------------------------------------------

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
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from s2s_infer.loaders import load_checkpoint\n"
        f"assert load_checkpoint({str(TORCH.parent)!r}).config.d_model == 16\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_base64_of_a_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.s2s"
    path.write_bytes(base64.b64encode(TORCH.read_bytes()[:999]))
    assert "begins with the bytes 55 45 73 44" in refusal(lambda: load_native(path))
