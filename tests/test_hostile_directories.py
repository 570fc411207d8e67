"""Hugging Face directories whose files are broken: always a ModelError with the cause."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_files import (
    CHECKPOINTS,
    edit_json,
    raw_file,
    read_raw,
    refusal,
    tiny_copy,
)
from s2s_infer.errors import ModelError
from s2s_infer.loaders import load_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_copy(tmp_path)


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
        "sets lstrip for the token .z., which is not supported",
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
