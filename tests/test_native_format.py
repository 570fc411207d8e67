"""The native file: a valid safetensors file, used in place, the same bytes each time."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import s2s_infer
from checkpoint_files import CHECKPOINTS, TINY, bfloat16_bits, header_of, with_header
from s2s_infer.config_enums import Positions
from s2s_infer.errors import ModelError
from s2s_infer.formats import native
from s2s_infer.formats.native import load_native, save_native
from s2s_infer.formats.safetensors import open_safetensors, write_safetensors
from s2s_infer.generation import GenerationConfig
from s2s_infer.loaders import Checkpoint, load_checkpoint
from s2s_infer.special_tokens import SpecialTokens
from texts import texts


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8", "int4"])
def tiny(request: pytest.FixtureRequest) -> Checkpoint:
    return load_checkpoint(TINY, request.param)


@pytest.fixture(scope="module")
def file(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / "tiny.s2s"
    save_native(tiny, path)
    return path


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    assert (a.config, a.generation, a.special_tokens) == (b.config, b.generation, b.special_tokens)
    assert (a.family, a.dtype) == (b.family, b.dtype)
    assert set(a.tensors) == set(b.tensors)
    for name, array in a.tensors.items():
        assert array.dtype == b.tensors[name].dtype, name
        assert np.array_equal(array, b.tensors[name]), name
    assert (a.tokenizer is None) == (b.tokenizer is None)
    if a.tokenizer is not None and b.tokenizer is not None:
        for text in texts(120):
            ids = a.tokenizer.encode_source(text)
            assert b.tokenizer.encode_source(text) == ids
            assert b.tokenizer.decode(ids) == a.tokenizer.decode(ids)


def test_what_was_saved_is_loaded(tiny: Checkpoint, file: Path) -> None:
    loaded = load_checkpoint(file)
    assert_equal(loaded, tiny)
    assert loaded.path == file and loaded.missing_tokenizer is None


def test_the_same_checkpoint_gives_the_same_bytes(
    tiny: Checkpoint, file: Path, tmp_path: Path
) -> None:
    save_native(load_checkpoint(TINY, tiny.dtype), tmp_path / "again.s2s")
    save_native(load_native(file), tmp_path / "copy.s2s")
    data = file.read_bytes()
    assert (tmp_path / "again.s2s").read_bytes() == data
    assert (tmp_path / "copy.s2s").read_bytes() == data


def test_the_safetensors_library_reads_it(tiny: Checkpoint, file: Path) -> None:
    from safetensors import deserialize

    tensors = dict(deserialize(file.read_bytes()))
    for name, array in tiny.tensors.items():
        if not name.endswith(".positions"):
            assert bytes(tensors[name]["data"]) == array.tobytes(), name
            assert tensors[name]["shape"] == list(array.shape)
    assert bytes(tensors["tokenizer.source.spm"]["data"]) == (TINY / "source.spm").read_bytes()
    assert not any(name.endswith(".positions") for name in tensors)


def test_every_tensor_is_aligned_and_read_only(file: Path) -> None:
    header, _ = header_of(file.read_bytes())
    n_header = int.from_bytes(file.read_bytes()[:8], "little")
    assert (8 + n_header) % 64 == 0
    for name, entry in header.items():
        if name != "__metadata__" and not name.startswith("padding."):
            assert entry["data_offsets"][0] % 64 == 0, name
    for name, array in load_native(file).tensors.items():
        assert array.flags.c_contiguous
        if not name.endswith(".positions"):
            assert array.ctypes.data % 64 == 0 and not array.flags.writeable


def test_alignment_holds_for_any_size(tmp_path: Path) -> None:
    arrays = [(f"t{n}", "U8", np.full(n, n % 251, np.uint8)) for n in (0, 1, 63, 64, 65, 127, 7)]
    arrays.append(("odd tiles", "BF16", np.arange(3 * 5 * 16, dtype=np.uint16).reshape(3, 5, 16)))
    arrays.append(("last", "F32", np.ones((3, 1, 16), np.float32)))
    write_safetensors(tmp_path / "x", arrays, {"a": "ä"}, 64)
    read = open_safetensors(tmp_path / "x")
    assert set(read.metadata) == {"a", "sha256"}
    assert read.metadata["a"] == "ä"
    read.verify()
    for name, dtype, array in arrays:
        assert read.entries[name].start % 64 == 0 and read.entries[name].dtype == dtype
        assert np.array_equal(read.array(name), array)
    from safetensors import deserialize

    assert len(deserialize((tmp_path / "x").read_bytes())) == len(read.entries)


def test_a_model_without_tokenizer(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(CHECKPOINTS / "marian-torch")
    save_native(checkpoint, tmp_path / "x.s2s")
    loaded = load_native(tmp_path / "x.s2s")
    assert_equal(loaded, checkpoint)
    assert loaded.missing_tokenizer == (
        f"{tmp_path / 'x.s2s'} has no tokenizer in it, so it takes and gives ids only."
    )


def test_all_descriptions_survive(tiny: Checkpoint, tmp_path: Path) -> None:
    generation = GenerationConfig(
        num_beams=5,
        length_penalty=0.6,
        early_stopping="never",
        bad_words_ids=((3, 4), (5,)),
        forced_eos_token_id=(0, 1),
        no_repeat_ngram_size=3,
    )
    special = SpecialTokens(
        start=1, bos=2, end=(0, 3), padding=4, unknown=5, mask=6, languages={"中": 7}
    )
    decoder = replace(tiny.config.decoder, positions=Positions.LEARNED, window=16)
    checkpoint = replace(
        tiny,
        generation=generation,
        special_tokens=special,
        config=replace(tiny.config, decoder=decoder),
        tokenizer=None,
    )
    save_native(checkpoint, tmp_path / "x.s2s")
    header, _ = header_of((tmp_path / "x.s2s").read_bytes())
    assert "decoder.positions" in header and "encoder.positions" not in header
    assert_equal(load_native(tmp_path / "x.s2s"), checkpoint)


def test_conversion_of_the_storage(tmp_path: Path) -> None:
    full = load_checkpoint(TINY, "float32")
    half = load_checkpoint(TINY, "bfloat16")
    save_native(full, tmp_path / "full.s2s")
    save_native(half, tmp_path / "half.s2s")
    assert_equal(load_native(tmp_path / "full.s2s", "bfloat16"), half)
    widened = load_native(tmp_path / "half.s2s", "float32")
    assert widened.dtype == "float32"
    for name, array in widened.tensors.items():
        assert array.dtype == np.float32
        if array.ndim == 3:
            assert array.ctypes.data % 64 == 0
            assert np.array_equal(bfloat16_bits(array), half.tensors[name])


def test_conversion_to_and_from_int8(tmp_path: Path) -> None:
    full, small = load_checkpoint(TINY, "float32"), load_checkpoint(TINY, "int8")
    save_native(full, tmp_path / "full.s2s")
    save_native(small, tmp_path / "small.s2s")
    assert_equal(load_native(tmp_path / "full.s2s", "int8"), small)
    widened = load_native(tmp_path / "small.s2s", "float32")
    assert set(widened.tensors) == set(full.tensors)
    for name, array in widened.tensors.items():
        assert array.dtype == np.float32 and array.shape == full.tensors[name].shape, name
        if array.ndim == 3:
            assert array.ctypes.data % 64 == 0
            step = small.tensors[f"{name}.scale"].reshape(-1, 1, 16)
            assert np.all(np.abs(array - full.tensors[name]) <= 0.500001 * step), name
    narrowed = load_native(tmp_path / "small.s2s", "bfloat16")
    save_native(widened, tmp_path / "widened.s2s")
    assert_equal(load_native(tmp_path / "widened.s2s", "bfloat16"), narrowed)


def test_int8_matrices_need_their_scales(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(TINY, "int8")
    name = "encoder.0.ffn.up.weight"
    for damaged in (
        {k: v for k, v in checkpoint.tensors.items() if k != f"{name}.scale"},
        {**checkpoint.tensors, name: checkpoint.tensors[name].reshape(-1, 16, 4)},
        {**checkpoint.tensors, f"{name}.scale": np.ones(3, np.float32)},
    ):
        save_native(replace(checkpoint, tensors=damaged), tmp_path / "x.s2s")
        with pytest.raises(ModelError, match=rf"tensor {name}"):
            load_native(tmp_path / "x.s2s", "float32")
        with pytest.raises(ModelError, match=rf"tensor {name}"):
            s2s_infer.load(tmp_path / "x.s2s")


def test_conversion_to_and_from_int4(tmp_path: Path) -> None:
    full, small = load_checkpoint(TINY, "float32"), load_checkpoint(TINY, "int4")
    save_native(full, tmp_path / "full.s2s")
    save_native(small, tmp_path / "small.s2s")
    assert_equal(load_native(tmp_path / "full.s2s", "int4"), small)
    widened = load_native(tmp_path / "small.s2s", "float32")
    assert set(widened.tensors) == set(full.tensors)
    n_int4 = 0
    for name, array in widened.tensors.items():
        assert array.shape == full.tensors[name].shape, name
        if small.tensors[name].dtype == np.uint8:
            n_int4 += 1
            scale = small.tensors[f"{name}.scale"].reshape(-1, 1, 16)
            numbers = np.rint(array / scale)
            assert np.abs(numbers).max() <= 120 and np.allclose(numbers * scale, array), name
            assert np.array_equal(numbers.sum(1).reshape(-1), small.tensors[f"{name}.sum"]), name
            error = np.abs(array - full.tensors[name]).mean()
            assert error < 0.1 * np.abs(full.tensors[name]).mean(), name
        elif array.ndim == 3:
            assert small.tensors[name].dtype == np.int8, name
    assert n_int4 > 0


def test_int4_embeddings_and_damaged_int4_tiles_are_refused(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(TINY, "int4")
    name = "encoder.0.ffn.up.weight"
    tiles = checkpoint.tensors[name]
    embed = np.zeros((len(checkpoint.tensors["shared.embed"]), 1, 17, 64), np.uint8)
    for tensors, match in (
        ({**checkpoint.tensors, name: tiles[:, :, :16].copy()}, rf"tensor {name}"),
        ({k: v for k, v in checkpoint.tensors.items() if k != f"{name}.sum"}, f"{name}.sum"),
        ({**checkpoint.tensors, "shared.embed": embed}, "shared.embed must not be int4"),
    ):
        save_native(replace(checkpoint, tensors=tensors), tmp_path / "x.s2s")
        with pytest.raises(ModelError, match=match):
            s2s_infer.load(tmp_path / "x.s2s")


def test_rounding_is_that_of_the_core() -> None:
    from s2s_infer import _core
    from s2s_infer.loaders.packing import to_bfloat16

    bits = np.random.default_rng(0).integers(0, 2**32, (64, 512), np.uint32, endpoint=False)
    special = [
        0,
        1,
        0x7F7FFFFF,
        0x7F800000,
        0xFF800000,
        0x7FC00001,
        0x7F800001,
        0x00008000,
        0x00018000,
    ]
    bits.reshape(-1)[: len(special)] = special
    weight = bits.view(np.float32)
    assert np.array_equal(
        to_bfloat16(_core.pack(weight, "float32")), _core.pack(weight, "bfloat16")
    )


# ---- in place ----------------------------------------------------------------------------------


def large_file(path: Path) -> int:
    """A native file of 64 MiB of embeddings on the tiny model's header; its size."""
    tiny = load_checkpoint(TINY)
    n_tokens = 1 << 19
    tensors = dict(tiny.tensors)
    tensors["shared.embed"] = np.zeros((n_tokens // 16, 32, 16), np.float32)
    tensors["output.bias"] = np.zeros(n_tokens, np.float32)
    config = replace(tiny.config, vocab_size=n_tokens, source_vocab_size=n_tokens)
    save_native(replace(tiny, tensors=tensors, config=config), path)
    return path.stat().st_size


LOAD_AND_COUNT = """
import gc, sys
from s2s_infer import _core
from s2s_infer.formats.native import load_native
load_native(sys.argv[1])  # libraries are loaded, the tokenizer is warm
gc.collect()
def resident():
    # of this file only: memory of other code must not hide or fake anything
    total, ours = 0, False
    for line in open('/proc/self/smaps'):
        if '-' in line.split(' ')[0] and ':' not in line.split(' ')[0]:
            ours = line.rstrip().endswith(sys.argv[2])
        elif ours and line.startswith('Rss:'):
            total += int(line.split()[1])
    return total
checkpoint = load_native(sys.argv[2])
model = _core.Model(checkpoint.config.to_core(), checkpoint.tensors)
print(resident())
checkpoint.tensors['shared.embed'].sum()
print(resident())
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/self/smaps")
def test_loading_touches_only_the_header(tmp_path: Path) -> None:
    """Resident KiB of the mapping after loading and building, then after reading it all."""
    size = large_file(tmp_path / "large.s2s")
    save_native(load_checkpoint(TINY), tmp_path / "small.s2s")
    drop_from_page_cache(tmp_path / "large.s2s")
    result = subprocess.run(
        [sys.executable, "-c", LOAD_AND_COUNT, tmp_path / "small.s2s", tmp_path / "large.s2s"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    loaded, read = map(int, result.stdout.split())
    assert read * 1024 > 0.9 * size  # the counter counts
    assert loaded < 2048, f"{loaded} KiB of {size >> 10} were touched"


def drop_from_page_cache(path: Path) -> None:
    """Pages that are cached already would be mapped around each fault."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def test_arrays_outlive_the_checkpoint(file: Path) -> None:
    array = load_native(file).tensors["shared.embed"]
    expected = np.array(array)
    for _ in range(3):
        load_native(file)
    assert np.array_equal(array, expected)
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert isinstance(base, (mmap.mmap, memoryview)), "a copy, not a view of the mapping"


# ---- writing -----------------------------------------------------------------------------------


@pytest.fixture
def old_umask() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


def test_the_file_mode_follows_the_umask(tiny: Checkpoint, tmp_path: Path, old_umask: None) -> None:
    save_native(tiny, tmp_path / "x.s2s")
    assert (tmp_path / "x.s2s").stat().st_mode & 0o777 == 0o640


def test_writing_is_all_or_nothing(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.s2s"
    path.write_bytes(b"old")

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ModelError, match=r"x\.s2s cannot be written: No space left on device\."):
        save_native(tiny, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.s2s"]


def test_a_mapped_file_may_be_replaced(tiny: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "x.s2s"
    save_native(tiny, path)
    loaded = load_native(path)
    save_native(load_checkpoint(CHECKPOINTS / "marian-torch"), path)
    assert_equal(loaded, tiny)


def test_a_folder_that_is_not_there(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written: No such file or directory"):
        save_native(tiny, tmp_path / "no" / "x.s2s")


def test_the_header_names_format_and_version(file: Path) -> None:
    metadata = header_of(file.read_bytes())[0]["__metadata__"]
    assert (metadata["format"], metadata["version"]) == (native.FORMAT, native.VERSION)
    assert json.loads(metadata["config"])["d_model"] == 32


def test_the_tokenizer_is_opened_at_its_first_use() -> None:
    """Work on ids imports no tokenizer library, and texts are decoded when they are read."""
    code = (
        "import sys, s2s_infer\n"
        "model = s2s_infer.load(threads=1)\n"
        "result = model.generate_ids([[5, 6, 7, 0]], max_new_tokens=3)[0]\n"
        "assert len(result.token_ids) > 0\n"
        "assert 'sentencepiece' not in sys.modules\n"
        "assert result.text == model.tokenizer.decode(result.token_ids)\n"
        "assert 'sentencepiece' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- damage and change ----


def test_a_checksum_finds_every_flipped_bit(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    open_safetensors(file).verify()
    n_header = int.from_bytes(data[:8], "little")
    width = data.index(b'\\"d_ffn\\":')  # a number of the description, and one of the data
    for at in (data.index(b":", width) + 1, 8 + n_header, len(data) - 1):
        flipped = bytearray(data)
        flipped[at] ^= 1
        path = tmp_path / "flipped.s2s"
        path.write_bytes(flipped)
        with pytest.raises(ModelError, match="is damaged: its header has the SHA-256"):
            open_safetensors(path).verify()
    header, body = header_of(data)
    del header["__metadata__"]["sha256"]
    path.write_bytes(with_header(header, body))
    with pytest.raises(ModelError, match="has no checksum"):
        open_safetensors(path).verify()


def test_a_file_that_is_written_to_is_not_used_any_more(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.s2s"
    data = file.read_bytes()
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    model = s2s_infer.load("model.s2s", threads=1)
    expected = model.generate_ids([[5, 6, 0]], max_new_tokens=3)
    monkeypatch.chdir("/")
    os.truncate(path, len(data) // 2)
    with pytest.raises(ModelError, match="was written to after it was opened"):
        _ = expected[0].text  # its tokenizer was not read yet
    with pytest.raises(ModelError, match="was written to after it was opened"):
        model.generate_ids([[5, 6, 0]], max_new_tokens=3)
    path.unlink()
    path.write_bytes(data)
    model = s2s_infer.load(path, threads=1)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ModelError, match="was written to after it was opened"):
        model.encode_ids([[5, 6, 0]])

    model = s2s_infer.load(path, threads=1)
    (tmp_path / "new.s2s").write_bytes(b"another")
    (tmp_path / "new.s2s").replace(path)
    for _ in range(2):
        result = model.generate_ids([[5, 6, 0]], max_new_tokens=3)[0]
        assert result.token_ids == expected[0].token_ids
        assert result.text is not None
        path.unlink(missing_ok=True)
