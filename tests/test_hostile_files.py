"""Native files that are broken or of another kind: always a ModelError with the cause."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint_files import (
    TINY,
    header_of,
    load_and_build,
    refusal,
    tar_bytes,
    tiny_copy,
    with_header,
)
from s2s_infer.errors import ModelError
from s2s_infer.formats.native import load_native, save_native
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


# ---- the native file: of another kind ----------------------------------------------------------


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
    (metadata(dtype="int3"), "dtype 'int3'; this build knows float32, bfloat16, int8, int4"),
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
    (config("encoder.window", -1), "window must be an integer of at least 0"),
    (config("encoder.full_layers", [5]), "full_layers must be rising indices of layers"),
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
    (entry(UP, dtype="U32"), "of U32, not one of F32, BF16, I8, U8, I32"),
    (entry(UP, dtype="I32"), "ffn.up.weight must be float32, bfloat16, int8 or int4"),
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


def test_base64_of_a_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.s2s"
    path.write_bytes(base64.b64encode((TINY / "model.safetensors").read_bytes()[:999]))
    assert "begins with the bytes " in refusal(lambda: load_native(path))
