"""The uses of a checkpoint's embeddings, shared, tied and not, and its position tables."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_files import (
    CHECKPOINTS,
    TINY,
    Array,
    assert_same_tensors,
    edit_json,
    raw_file,
    read_raw,
    tiny_copy,
    unpacked,
)
from random_checkpoint import POSITIONS, write_checkpoint
from s2s_infer import positions
from s2s_infer.config_enums import Positions
from s2s_infer.errors import ModelError
from s2s_infer.loaders import Checkpoint, load_checkpoint

D = 32
N_TOKENS = len(json.loads((TINY / "vocab.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint(TINY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_copy(tmp_path)


# ---- embeddings --------------------------------------------------------------------------------


def embeddings(folder: Path, config: dict[str, Any], **tensors: Array) -> dict[str, Array]:
    """Load a checkpoint whose embedding tensors are replaced; its unpacked embeddings."""
    names = {
        "shared": "model.shared.weight",
        "encoder": "model.encoder.embed_tokens.weight",
        "decoder": "model.decoder.embed_tokens.weight",
        "head": "lm_head.weight",
    }
    edit_json(folder / "config.json", **config)
    raw = read_raw(TINY / "model.safetensors")
    del raw["model.shared.weight"]
    raw |= {names[key]: ("F32", array) for key, array in tensors.items()}
    n = config.get("decoder_vocab_size", N_TOKENS)
    raw["final_logits_bias"] = ("F32", raw["final_logits_bias"][1][:, :n])
    (folder / "model.safetensors").write_bytes(raw_file(raw))
    for name in ("source.spm", "generation_config.json"):
        (folder / name).unlink()
    checkpoint = load_checkpoint(folder)
    result = {}
    for name, rows in (
        ("encoder.embed", N_TOKENS),
        ("decoder.embed", n),
        ("output.weight", n),
    ):
        tiles = checkpoint.tensors.get(name, checkpoint.tensors.get("shared.embed"))
        assert tiles is not None
        result[name] = unpacked(tiles, rows)
    result["stored"] = np.array(
        [k for k in checkpoint.tensors if "embed" in k or k == "output.weight"]
    )
    return result


def table(seed: int, rows: int = N_TOKENS) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)


SEPARATE = {
    "share_encoder_decoder_embeddings": False,
    "decoder_vocab_size": 50,
    "pad_token_id": 49,
    "decoder_start_token_id": 49,
    "bad_words_ids": [],
}


@pytest.mark.parametrize(
    ("config", "stored", "expected"),
    [
        ({}, {"shared": 1}, (1, 1, 1)),
        ({}, {"head": 1}, (1, 1, 1)),
        ({}, {"decoder": 1}, (1, 1, 1)),
        ({}, {"shared": 1, "encoder": 1, "decoder": 1, "head": 1}, (1, 1, 1)),
        ({}, {"shared": 1, "head": 2}, (1, 1, 2)),  # transformers unties what differs
        ({"tie_word_embeddings": False}, {"shared": 1, "head": 2}, (1, 1, 2)),
        (
            {"tie_word_embeddings": False},
            {"shared": 9, "encoder": 1, "decoder": 2, "head": 3},
            (1, 2, 3),
        ),
        (SEPARATE, {"encoder": 1, "decoder": -2}, (1, -2, -2)),
        (SEPARATE, {"encoder": 1, "decoder": -2, "head": -2}, (1, -2, -2)),
        (
            {**SEPARATE, "tie_word_embeddings": False},
            {"encoder": 1, "decoder": -2, "head": -3},
            (1, -2, -3),
        ),
    ],
)
def test_embeddings_shared_tied_and_not(
    folder: Path, config: dict[str, Any], stored: dict[str, int], expected: tuple[int, int, int]
) -> None:
    """Numbers name random tables; negative ones have 50 rows."""

    def make(seed: int) -> Array:
        return table(abs(seed), N_TOKENS if seed > 0 else 50)

    result = embeddings(folder, config, **{key: make(seed) for key, seed in stored.items()})
    for name, seed in zip(
        ("encoder.embed", "decoder.embed", "output.weight"), expected, strict=True
    ):
        assert np.array_equal(result[name], make(seed)), name
    assert len(result["stored"]) == len(set(expected))  # each matrix once


def test_untied_means_that_the_head_must_be_there(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks the tensor 'lm_head.weight'"):
        embeddings(folder, {"tie_word_embeddings": False}, shared=table(1))


def test_separate_vocabularies_with_their_tokenizer(folder: Path) -> None:
    separate = CHECKPOINTS / "marian-separate"
    sizes = [
        len(json.loads((separate / name).read_text(encoding="utf-8")))
        for name in ("vocab.json", "target_vocab.json")
    ]
    raw = read_raw(folder / "model.safetensors")
    del raw["model.shared.weight"]
    raw["model.encoder.embed_tokens.weight"] = ("F32", table(1, sizes[0]))
    raw["model.decoder.embed_tokens.weight"] = ("F32", table(2, sizes[1]))
    raw["final_logits_bias"] = ("F32", np.zeros((1, sizes[1]), np.float32))
    (folder / "model.safetensors").write_bytes(raw_file(raw))
    (folder / "generation_config.json").unlink()
    shutil.copytree(separate, folder, dirs_exist_ok=True)
    pad = sizes[1] - 1
    edit_json(
        folder / "config.json",
        vocab_size=sizes[0],
        decoder_vocab_size=sizes[1],
        share_encoder_decoder_embeddings=False,
        pad_token_id=pad,
        decoder_start_token_id=pad,
    )
    checkpoint = load_checkpoint(folder)
    config = checkpoint.config
    assert [config.source_vocab_size, config.vocab_size] == sizes
    assert checkpoint.tokenizer is not None and checkpoint.special_tokens.languages == {"en": 2}
    ids = checkpoint.tokenizer.encode_target("Where are your books?")
    assert max(ids) < sizes[1] and checkpoint.tokenizer.decode(ids) == "Where are your books"


# ---- positions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("d_model", [1, 2, 7, 32])
def test_position_tables(d_model: int) -> None:
    plain, halves = positions.sinusoidal(50, d_model), positions.sinusoidal_halves(50, d_model)
    n_sines = (d_model + 1) // 2
    assert plain.dtype == halves.dtype == np.float32
    for p in (0, 1, 49):
        for j in range(d_model):
            angle = p / 10000 ** (2 * (j // 2) / d_model)
            value = np.float32(math.cos(angle) if j % 2 else math.sin(angle))
            assert plain[p, j] == pytest.approx(value, abs=1e-7)
            assert halves[p, j // 2 + (n_sines if j % 2 else 0)] == plain[p, j]


def with_positions(folder: Path, tables: dict[str, Array]) -> Checkpoint:
    raw = read_raw(folder / "model.safetensors")
    for side, values in tables.items():
        raw[f"model.{side}.embed_positions.weight"] = ("F32", values)
    (folder / "model.safetensors").write_bytes(raw_file(raw))
    return load_checkpoint(folder)


def test_stored_sinusoidal_positions_are_recognized(folder: Path, tiny: Checkpoint) -> None:
    usual = positions.sinusoidal_halves(64, D)
    checkpoint = with_positions(folder, {"encoder": usual, "decoder": usual})
    assert checkpoint.config == tiny.config
    assert_same_tensors(checkpoint, tiny)


def test_stored_positions_of_another_kind_are_used(folder: Path, tiny: Checkpoint) -> None:
    checkpoint = with_positions(folder, {"decoder": table(4, 64)})
    assert checkpoint.config.encoder == tiny.config.encoder
    assert checkpoint.config.decoder.positions is Positions.LEARNED
    assert np.array_equal(checkpoint.tensors["decoder.positions"], table(4, 64))


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("n", "d"), [(64, 32), (512, 512), (100, 6)])
def test_positions_are_those_of_transformers(n: int, d: int) -> None:
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    theirs = MarianSinusoidalPositionalEmbedding(n, d).create_weight().numpy()
    assert np.array_equal(positions.sinusoidal_halves(n, d), theirs)


def test_learned_positions_begin_after_the_unused_rows(tmp_path: Path) -> None:
    """BART's table has two rows that no position reads."""
    folder = write_checkpoint(tmp_path / "bart", "bart", 30)
    stored = read_raw(folder / "model.safetensors")["model.encoder.embed_positions.weight"][1]
    found = load_checkpoint(folder)
    assert found.config.encoder.positions is Positions.LEARNED
    assert stored.shape == (POSITIONS + 2, 16)
    assert np.array_equal(found.tensors["encoder.positions"], stored[2:])


def test_positions_of_fairseq(tmp_path: Path) -> None:
    """M2M100's: sines, cosines, the first position is 2; the paper's spacing but for d - 2."""
    folder = write_checkpoint(tmp_path / "m2m", "m2m_100", 30)
    found = load_checkpoint(folder).tensors["decoder.positions"]
    assert found.shape == (POSITIONS, 16)
    for p in (0, 1, 17):
        for i in range(8):
            angle = (p + 2) / 10000 ** (i / 7)
            assert found[p, i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[p, 8 + i] == pytest.approx(math.cos(angle), abs=1e-6)
    assert not positions.sinusoidal_fairseq(5, 7)[:, 6].any()
