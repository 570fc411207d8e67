"""Broken directories of every family: one clear sentence, no crash, no huge allocation."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import config_cases
from checkpoint_files import build, edit_json, load_and_build, raw_file, read_raw, refusal
from random_checkpoint import TOKENIZERS, write_checkpoint
from s2s_infer.errors import ModelError
from s2s_infer.formats.native import load_native, save_native
from s2s_infer.loaders import load_checkpoint
from s2s_infer.tokenizer_files import open_tokenizer, tokenizer_from_blobs

FIXTURES = Path(__file__).parent / "fixtures"
FOLDERS = {
    folder.name: folder
    for root in ("families", "encoders")
    for folder in sorted((FIXTURES / root).iterdir())
    if (folder / "config.json").exists()
}
VALUES: list[Any] = [
    -1, 0, 3, 2**31 - 1, 2**31, 10**12, 10**30, 1.5, 1e308, -1e308, 1e-300,
    "x", "", None, [], {}, [1], [10**9], {"x": 1}, True, False,
]  # fmt: skip
MAX_MEMORY = 8 << 30


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """A size that is believed before it is checked fails here instead of filling the machine."""
    if "asan" in os.environ.get("LD_PRELOAD", ""):  # which reserves terabytes for itself
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def check_sentence(error: ModelError) -> None:
    text = str(error)
    assert text.endswith((".", "?")) and "\n" not in text and len(text) < 1000, text


def test_every_family_is_here() -> None:
    families = {json.loads((f / "config.json").read_text())["model_type"] for f in FOLDERS.values()}
    assert families >= {"bart", "mbart", "m2m_100", "pegasus", "t5", "mt5", "umt5", "bert"}


@pytest.mark.parametrize("name", list(FOLDERS))
def test_absurd_values_in_the_config(name: str, tmp_path: Path) -> None:
    """Each key of config.json with odd values: it loads (it may mean nothing) or says why not."""
    folder = Path(shutil.copytree(FOLDERS[name], tmp_path / "model"))
    sound = json.loads((folder / "config.json").read_text("utf-8"))
    refused = 0
    rng = random.Random(name)
    for key in keys_of(sound):
        for value in rng.sample(VALUES, 7):
            (folder / "config.json").write_text(json.dumps(changed(sound, key, value)))
            try:
                load_and_build(folder)
            except ModelError as error:
                check_sentence(error)
                refused += 1
    assert refused > 30


def keys_of(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Every key, those within others too."""
    for key, value in values.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *inner) for inner in keys_of(value))


def changed(values: dict[str, Any], key: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = key
    return {**values, first: changed(values[first], tuple(rest), value) if rest else value}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "t5gemma"])
@pytest.mark.parametrize("rope", range(len(config_cases.ROPE)))
def test_absurd_rotary_positions(name: str, rope: int, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDERS[name], tmp_path / "model"))
    sound = json.loads((folder / "config.json").read_text("utf-8"))
    sides = ("decoder",) if name == "t5gemma" else ()
    parameters = config_cases.ROPE[rope]
    for key in keys_of(parameters):
        for value in (*VALUES, 0.0, -0.5, 1e-9, 1 + 1e-7, 4096):
            wrong = changed(parameters, key, value)
            config = changed({**sound, "rope_parameters": {}}, (*sides, "rope_parameters"), wrong)
            (folder / "config.json").write_text(json.dumps(config))
            try:
                load_and_build(folder)
            except ModelError as error:
                check_sentence(error)


@pytest.mark.parametrize("name", list(FOLDERS))
def test_missing_and_misshapen_tensors(name: str, tmp_path: Path) -> None:
    """Each tensor left out, or of another shape, is an error that names a tensor."""
    folder = Path(shutil.copytree(FOLDERS[name], tmp_path / "model"))
    file = folder / "model.safetensors"
    sound = read_raw(file)
    loaded = 0
    for victim in sound:
        dtype, array = sound[victim]
        wrong = np.zeros((*array.shape[:-1], array.shape[-1] + 1), array.dtype)
        for changed in (
            {name: raw for name, raw in sound.items() if name != victim},
            {**sound, victim: (dtype, wrong)},
            {**sound, victim: (dtype, array.reshape(-1)[: array.size - 1])},
            {**sound, victim: (dtype, np.zeros((0,), array.dtype))},
        ):
            file.write_bytes(raw_file(changed))
            try:
                load_and_build(folder)
            except ModelError as error:
                check_sentence(error)
                assert "tensor" in str(error)
            else:
                loaded += 1  # a bias of zeros, or the twin of a tied matrix, may be absent
    assert loaded <= len(sound) // 4 + 2
    file.write_bytes(raw_file({**sound, "another.tensor": ("F32", np.zeros(3, "<f4"))}))
    assert "another.tensor" in refusal(lambda: load_checkpoint(folder))


@pytest.mark.parametrize("name", list(FOLDERS))
def test_missing_files(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDERS[name], tmp_path / "model"))
    (folder / "model.safetensors").rename(tmp_path / "away")
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(
        lambda: load_checkpoint(folder)
    )
    (tmp_path / "away").rename(folder / "model.safetensors")
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(lambda: load_checkpoint(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "nllb-moe"}, "'nllb-moe'"),
        ({"model_type": "mixtral"}, "'mixtral'"),
        ({"quantization_config": {"bits": 4}}, "sets quantization_config to .* not supported"),
        ({"is_encoder_decoder": False}, "sets is_encoder_decoder to False"),
        ({"is_decoder": True}, "sets is_decoder to True"),
        ({"activation_function": "mish"}, "sets activation_function to 'mish'"),
        ({"encoder_attention_heads": 7}, "sets encoder_attention_heads to 7, but d_model"),
        ({"encoder_layers": 10**6}, "sets encoder_layers to 1000000, but it must be an integer"),
        ({"max_position_embeddings": 10**9}, "sets max_position_embeddings to 1000000000"),
        ({"vocab_size": 61}, "asks for .61, 32."),
    ],
)
@pytest.mark.parametrize("name", ["bart", "mbart", "m2m_100", "pegasus"])
def test_configs_that_cannot_be(
    name: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(FOLDERS[name], tmp_path / "model"))
    edit_json(folder / "config.json", **config)
    with pytest.raises(ModelError, match=message) as error:
        load_checkpoint(folder)
    check_sentence(error.value)


# ---- shards --------------------------------------------------------------------------------------


def sharded(folder: Path) -> dict[str, str]:
    """model.safetensors in two files; the index's map."""
    tensors = read_raw(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    weight_map = {}
    for i, some in enumerate((names[::2], names[1::2])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        (folder / file).write_bytes(raw_file({name: tensors[name] for name in some}))
        weight_map.update(dict.fromkeys(some, file))
    edit_json(folder / "model.safetensors.index.json", weight_map=weight_map)
    return weight_map


@pytest.mark.parametrize("name", ["bart", "m2m_100", "t5"])
def test_shards_and_tricks_with_them(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDERS[name], tmp_path / "model"))
    whole = load_checkpoint(FOLDERS[name])
    weight_map = sharded(folder)
    again = load_checkpoint(folder)
    assert all(np.array_equal(again.tensors[key], whole.tensors[key]) for key in whole.tensors)
    first, last = weight_map[next(iter(weight_map))], "model-00002-of-00002.safetensors"
    outside = tmp_path / "outside.safetensors"
    shutil.copy(folder / first, outside)
    tricks = ("../outside.safetensors", str(outside), "..", ".", "", "a/b", "a\\b", "C:x", "a\0")
    for file in tricks:
        changed = {key: file if it == first else it for key, it in weight_map.items()}
        edit_json(folder / "model.safetensors.index.json", weight_map=changed)
        assert "is not a plain file name" in refusal(lambda: load_checkpoint(folder))
    edit_json(folder / "model.safetensors.index.json", weight_map=weight_map)
    # Links are followed, since the hub's cache is made of them; what they lead to must be tensors.
    (folder / first).unlink()
    (folder / first).symlink_to(outside)
    assert load_checkpoint(folder).tensors.keys() == whole.tensors.keys()
    for target, message in (
        ("/etc/passwd", "not a safetensors file"),
        ("/dev/zero", "is not a regular file"),
        (first, "symbolic links"),
        ("nowhere", "there is no file"),
        (str(tmp_path), "is not a regular file|cannot be read|Is a directory"),
    ):
        (folder / first).unlink()
        (folder / first).symlink_to(target)
        with pytest.raises(ModelError, match=message) as error:
            load_checkpoint(folder)
        check_sentence(error.value)
    (folder / first).unlink()
    shutil.copy(folder / last, folder / first)  # the same tensors twice
    assert "does not say that the tensor" in refusal(lambda: load_checkpoint(folder))


def test_duplicate_and_overlapping_tensors(tmp_path: Path) -> None:
    from checkpoint_files import header_of, with_header

    folder = Path(shutil.copytree(FOLDERS["bart"], tmp_path / "model"))
    file = folder / "model.safetensors"
    header, data = header_of(file.read_bytes())
    names = [name for name in header if name != "__metadata__"]
    text = json.dumps(header)
    twice = text[:-1] + f', "{names[0]}": {json.dumps(header[names[0]])}}}'
    file.write_bytes(with_header(twice.encode(), data))
    assert "twice" in refusal(lambda: load_checkpoint(folder))
    a, b = (name for name in names if header[name]["shape"] == [32, 32] and "q_proj" in name and
            ("encoder.layers.0" in name or "encoder.layers.1" in name))  # fmt: skip
    header[b]["data_offsets"] = header[a]["data_offsets"]
    file.write_bytes(with_header(header, data))
    message = refusal(lambda: load_checkpoint(folder))
    assert "overlap" in message or "gap" in message or "offsets" in message


# ---- tokenizer files -----------------------------------------------------------------------------

TOKENIZER_FOLDERS = {
    "bart": "bart", "mbart": "mbart", "mbart50": "mbart", "m2m100": "m2m_100",
    "pegasus": "pegasus", "llama": "llama", "byt5": "t5",
}  # fmt: skip


@pytest.mark.parametrize("name", list(TOKENIZER_FOLDERS))
def test_damaged_tokenizer_files(name: str, tmp_path: Path) -> None:
    """Flipped bytes: a tokenizer that still opens must encode and decode, or say what is wrong."""
    folder = Path(shutil.copytree(TOKENIZERS / name, tmp_path / "model"))
    rng = random.Random(name)
    for file in sorted(folder.iterdir()):
        sound = file.read_bytes()
        for _ in range(25):
            data = bytearray(sound)
            for _ in range(rng.choice((1, 2, 5))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            if rng.random() < 0.3:
                data = data[: rng.randrange(len(data))]
            file.write_bytes(data)
            try:
                tokenizer, _ = open_tokenizer(folder, TOKENIZER_FOLDERS[name])
                if tokenizer is not None:
                    ids = tokenizer.encode_target("今天天气很好。 The weather ① é </s> <mask>")
                    tokenizer.decode(ids)
                    tokenizer.tokens(ids)
            except ModelError as error:
                check_sentence(error)
        file.write_bytes(sound)


@pytest.mark.parametrize("name", list(TOKENIZER_FOLDERS))
@pytest.mark.parametrize(
    "key",
    [
        "tokenizer_class", "src_lang", "tgt_lang", "extra_ids", "offset", "legacy_behaviour",
        "add_bos_token", "add_prefix_space", "clean_up_tokenization_spaces", "language_codes",
        "added_tokens_decoder", "extra_special_tokens", "eos_token", "mask_token", "legacy",
    ],
)  # fmt: skip
def test_absurd_values_in_the_tokenizer_config(name: str, key: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TOKENIZERS / name, tmp_path / "model"))
    file = folder / "tokenizer_config.json"
    sound = json.loads(file.read_text("utf-8"))
    more: list[Any] = [{"7": "x"}, {"7": {"content": 3}}, {"99999999999": "x"}, ["x", 5]]
    for value in [*VALUES, *more, "LlamaTokenizer"]:
        file.write_text(json.dumps({**sound, key: value}))
        try:
            tokenizer, _ = open_tokenizer(folder, TOKENIZER_FOLDERS[name])
            if tokenizer is not None:
                tokenizer.decode(tokenizer.encode_target("The weather </s>"))
        except ModelError as error:
            check_sentence(error)


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("merges.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("merges.txt", b"#version: 0.2\na b c\n", "line 2 of .* is not a pair of tokens"),
        ("merges.txt", b"onlyone\n", "line 1 of .* is not a pair of tokens"),
        ("merges.txt", b"qq ww\n", "does not belong to vocab.json"),
        ("vocab.json", b"[]", "must map tokens to ids"),
        ("vocab.json", b'{"a": 1, "b": 1}', "the one id 1"),
        ("vocab.json", b'{"a": -1}', "the id -1"),
    ],
)
def test_byte_level_files_that_cannot_be(
    file: str, data: bytes, message: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(TOKENIZERS / "bart", tmp_path / "model"))
    (folder / file).write_bytes(data)
    with pytest.raises(ModelError, match=message):
        open_tokenizer(folder, "bart")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab.json": b'{"<s>": 0}'}, "has no token '<pad>'"),
        ({"sentencepiece.bpe.model": b"PK\x03\x04"}, "is a zip archive"),
        ({"sentencepiece.bpe.model": b""}, "is an empty file"),
        ({"tokenizer_config.json": b'{"tokenizer_class": "XLNetTokenizer"}'}, "'XLNetTokenizer'"),
    ],
)
def test_sentencepiece_files_that_cannot_be(
    change: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(TOKENIZERS / "m2m100", tmp_path / "model"))
    for file, data in change.items():
        (folder / file).write_bytes(data)
    with pytest.raises(ModelError, match=message) as error:
        open_tokenizer(folder, "m2m_100")
    check_sentence(error.value)


def test_a_tokenizer_larger_than_its_model(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "m2m_100", 300, "m2m100")
    message = refusal(lambda: load_checkpoint(folder))
    assert "but the model's vocabulary has 300 tokens" in message


@pytest.mark.parametrize("name", ["m2m100", "mbart50", "byt5"])
def test_settings_of_a_native_file_that_cannot_be(name: str) -> None:
    tokenizer, _ = open_tokenizer(TOKENIZERS / name, TOKENIZER_FOLDERS[name])
    assert tokenizer is not None
    settings, blobs = tokenizer.to_blobs()

    def attempt(changed: Any) -> None:
        try:
            again = tokenizer_from_blobs(tokenizer.kind, changed, blobs)
            again.decode(again.encode_target("The weather"))
        except ModelError as error:
            check_sentence(error)

    paths: list[tuple[str, ...]] = [(key,) for key in settings]
    paths += [(a, b) for a in settings if isinstance(settings[a], dict) for b in settings[a]]
    for path in paths:
        for value in [*VALUES, {"a": -1}, {"a": 5, "b": 5}, ["</s>"]]:
            changed = json.loads(json.dumps(settings))
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            attempt(changed)
            del inner[path[-1]]
            attempt(changed)
    with pytest.raises(ModelError):
        tokenizer_from_blobs(tokenizer.kind, settings, {"other": b""})


@pytest.mark.parametrize("name", ["bart", "m2m_100"])
def test_a_native_file_of_a_family_with_flipped_bytes(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.s2s"
    save_native(load_checkpoint(FOLDERS[name]), file)
    sound = file.read_bytes()
    rng = random.Random(name)
    n = int.from_bytes(sound[:8], "little")
    for _ in range(150):
        data = bytearray(sound)
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(8 + n)] = rng.randrange(256)
        file.write_bytes(data)
        try:
            build(load_native(file))
        except ModelError as error:
            check_sentence(error)
