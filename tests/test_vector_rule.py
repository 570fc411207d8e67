"""Vectors as modules.json of a checkpoint of sentence-transformers asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s2s_infer
from checkpoint_files import refusal
from s2s_infer.errors import InputTooLongError, UnsupportedError
from s2s_infer.formats.native import save_native
from s2s_infer.loaders import load_checkpoint
from test_encoders import directory

TEXTS = ["abc de", "the quick brown fox", ""]
TYPE = "sentence_transformers.models."


def write(folder: Path, file: str, value: Any) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(value), encoding="utf-8")


def sentence_model(path: Path, pooling: Any, *more: str, **companions: Any) -> Path:
    """A checkpoint whose modules are Transformer, Pooling and `more`; companions: files by stem."""
    folder = directory(path / "model", "BertModel-24")
    kinds = ["Transformer", "Pooling", *more]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": TYPE + kind}
        for i, kind in enumerate(kinds)
    ]
    write(folder, "modules.json", modules)
    write(folder, "1_Pooling/config.json", pooling)
    for stem, value in companions.items():
        write(folder, f"{stem}.json", value)
    return folder


def old_pooling(**modes: bool) -> dict[str, Any]:
    known = dict.fromkeys(("cls_token", "mean_tokens", "max_tokens"), False)
    named = {f"pooling_mode_{mode}": value for mode, value in {**known, **modes}.items()}
    return {"word_embedding_dimension": 24, **named, "include_prompt": True}


@pytest.mark.parametrize(
    ("pooling", "more", "expected", "normalize"),
    [
        (old_pooling(mean_tokens=True), [], "mean", False),
        (old_pooling(cls_token=True), ["Normalize"], "cls", True),
        ({"embedding_dimension": 24, "pooling_mode": "mean"}, ["Normalize"], "mean", True),
        ({"pooling_mode": "cls"}, [], "cls", False),
    ],
)
def test_auto_is_what_the_files_say(
    pooling: Any, more: list[str], expected: str, normalize: bool, tmp_path: Path
) -> None:
    folder = sentence_model(tmp_path, pooling, *more)
    save_native(load_checkpoint(folder), tmp_path / "model.s2s")
    for path in (folder, tmp_path / "model.s2s"):
        with s2s_infer.load(path) as model:
            vectors = model.encode(TEXTS, pooling="auto")
            same = model.encode(TEXTS, pooling=expected, normalize=normalize)
            assert vectors.tobytes() == same.tobytes()
            assert any("a vector is" in sentence for sentence in model.info()["input"])
            if not normalize:
                unit = model.encode(TEXTS, pooling="auto", normalize=True)
                np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_auto_without_files_is_the_mean(tmp_path: Path) -> None:
    with s2s_infer.load(directory(tmp_path / "model", "BertModel-24")) as model:
        vectors = model.encode(TEXTS, pooling="auto")
        assert vectors.tobytes() == model.encode(TEXTS, pooling="mean").tobytes()
        assert not any("a vector is" in sentence for sentence in model.info()["input"])


def test_a_text_has_at_most_the_tokens_of_the_checkpoint(tmp_path: Path) -> None:
    own = {"max_seq_length": 5, "do_lower_case": False}
    folder = sentence_model(tmp_path, {"pooling_mode": "mean"}, sentence_bert_config=own)
    with s2s_infer.load(folder) as model:
        for text in ("abcdef", ("abc", "def")):
            with pytest.raises(InputTooLongError, match=r"at most 5 \(max_seq_length"):
                model.encode(text, pooling="auto")
        cut = model.encode("abcdef", pooling="auto", truncate=True)
        assert cut.tobytes() == model.encode("abc", pooling="mean").tobytes()
        assert len(model.encode("abcdef")) == 8  # hidden states are not vectors


@pytest.mark.parametrize(
    ("pooling", "more", "companions", "reason"),
    [
        (old_pooling(max_tokens=True), [], {}, "pools by max_tokens"),
        (old_pooling(max_tokens=True, cls_token=True), [], {}, "pools by cls_token, max_tokens"),
        (old_pooling(), [], {}, "pools by nothing"),
        ({"pooling_mode": "lasttoken"}, [], {}, "pools by lasttoken"),
        ({"pooling_mode": "mean"}, ["Dense", "Normalize"], {}, "Pooling, Dense, Normalize"),
        (
            {"pooling_mode": "mean"},
            [],
            {"config_sentence_transformers": {"default_prompt_name": "query"}},
            "sets default_prompt_name",
        ),
        (
            {"pooling_mode": "mean"},
            [],
            {"sentence_bert_config": {"do_lower_case": True}},
            "sets do_lower_case",
        ),
    ],
)
def test_what_is_not_computed_is_said(
    pooling: Any, more: list[str], companions: Any, reason: str, tmp_path: Path
) -> None:
    with s2s_infer.load(sentence_model(tmp_path, pooling, *more, **companions)) as model:
        with pytest.raises(UnsupportedError, match=reason):
            model.encode(TEXTS, pooling="auto")
        assert model.encode(TEXTS, pooling="mean").shape == (3, 24)


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("modules.json", {}),
        ("modules.json", [7]),
        ("modules.json", [{"type": 7}]),
        ("modules.json", [{"type": "Transformer"}, {"type": "Pooling", "path": "../other"}]),
        ("modules.json", [{"type": "Transformer"}, {"type": "Pooling", "path": "/etc"}]),
        ("modules.json", [{"type": "Transformer"}, {"type": "Pooling", "path": ".."}]),
        ("modules.json", [{"type": "Transformer"}, {"type": "Pooling"}]),
        ("modules.json", [{"type": "Transformer"}, {"type": "Pooling", "path": "2_Missing"}]),
        ("1_Pooling/config.json", []),
        ("sentence_bert_config.json", {"max_seq_length": -1}),
        ("sentence_bert_config.json", {"max_seq_length": "512"}),
        ("sentence_bert_config.json", {"max_seq_length": 1.5}),
    ],
)
def test_files_that_cannot_be(file: str, value: Any, tmp_path: Path) -> None:
    folder = sentence_model(tmp_path, {"pooling_mode": "mean"})
    write(folder, file, value)
    refusal(lambda: load_checkpoint(folder))
