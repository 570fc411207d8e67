"""WordPiece and byte-level BPE give the ids and token types that transformers gives."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import parity_encoders as parity
from checkpoint_files import refusal
from s2s_infer.tokenizer import Tokenizer
from s2s_infer.tokenizer_files import open_tokenizer
from texts import texts

NAMES = ["wordpiece", "wordpiece-cased", "byte-level"]
MASKS = [
    "Paris is the [MASK] of France.",
    "a <mask> b<mask>c",
    "[MASK][MASK]",
    "[mask] [CLS] [SEP]",
]


def open_ours(name: str) -> Tokenizer:
    family = "roberta" if name == "byte-level" else "bert"
    tokenizer, _ = open_tokenizer(parity.FIXTURES / name, family)
    assert tokenizer is not None
    return tokenizer


def open_theirs(name: str) -> Any:
    from transformers import AutoTokenizer, BertTokenizer

    folder = parity.FIXTURES / name
    if name == "byte-level":
        return AutoTokenizer.from_pretrained(folder)
    file = folder / "tokenizer_config.json"
    return BertTokenizer.from_pretrained(
        folder, **(json.loads(file.read_text()) if file.exists() else {})
    )


@pytest.mark.parametrize("name", NAMES)
def test_goldens(name: str) -> None:
    ours = open_ours(name)
    golden = json.loads((parity.FIXTURES / f"{name}.golden.json").read_text("utf-8"))
    some = texts()
    assert len(golden["ids"]) == len(some) >= 300
    for text, ids in zip(some, golden["ids"], strict=True):
        assert ours.encode_source(text) == ids, text
    for a, b, ids, types in golden["pairs"]:
        assert ours.encode_pair(some[a], some[b], None) == (ids, types)


def test_byte_level_of_two_files_is_the_same(tmp_path: Path) -> None:
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(parity.FIXTURES / "byte-level" / file, tmp_path)
    ours, _ = open_tokenizer(tmp_path, "roberta")
    assert ours is not None
    golden = json.loads((parity.FIXTURES / "byte-level.golden.json").read_text("utf-8"))
    for text, ids in zip(texts(), golden["ids"], strict=True):
        assert ours.encode_source(text) == ids, text


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_live(name: str) -> None:
    ours, theirs = open_ours(name), open_theirs(name)
    some = [*MASKS, *texts(360, seed=5)]
    for text in some:
        ids = theirs(text).input_ids
        assert ours.encode_source(text) == ids, text
        assert ours.decode(ids) == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    for first, second in itertools.pairwise(some):
        joined = theirs([first], [second], return_token_type_ids=True)
        expected = (joined.input_ids[0], joined.token_type_ids[0])
        assert ours.encode_pair(first, second, None) == expected
        for limit in (9, 40):
            cut = theirs(
                [first],
                [second],
                truncation="longest_first",
                max_length=limit,
                return_token_type_ids=True,
            )
            expected = (cut.input_ids[0], cut.token_type_ids[0])
            assert ours.encode_pair(first, second, limit) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "lacks the token '[UNK]', the unk_token"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n", "lacks the token '[MASK]', the mask_token"),
        (b"\xff\xfe\n", "is not UTF-8"),
    ],
)
def test_wrong_vocabulary_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    assert words in refusal(lambda: open_tokenizer(tmp_path, "bert"))


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    for values, words in (
        ({"do_lower_case": "yes"}, "sets do_lower_case to 'yes', which is not true or false"),
        ({"mask_token": 4}, "sets mask_token to 4, which is not a token"),
        ({"cls_token": {"content": "<s>"}}, "lacks the token '<s>', the cls_token"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
        assert words in refusal(lambda: open_tokenizer(tmp_path, "bert"))
