"""Tokenizers of every family give the ids and texts of transformers and of sentencepiece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2s_infer.sentencepiece_tokenizer import SentencepieceTokenizer
from s2s_infer.tokenizer import Tokenizer
from s2s_infer.tokenizer_files import SPM_FILES, open_tokenizer, tokenizer_from_blobs
from tokenizer_cases import (
    CASES,
    FLAGGED,
    Case,
    add_flagged,
    open_reference,
    samples,
    save_modern,
)

FOLDER = Path(__file__).parent / "fixtures" / "tokenizers"
BY_NAME = {case.name: case for case in CASES}
GOLDEN = sorted(path.name.removesuffix(".golden.json") for path in FOLDER.glob("*.golden.json"))


def opened(folder: Path, case: Case) -> Tokenizer:
    result, missing = open_tokenizer(folder, case.family)
    assert result is not None, missing
    return result


def again(ours: Tokenizer) -> Tokenizer:
    """As it comes back out of a native file."""
    settings, blobs = ours.to_blobs()
    return tokenizer_from_blobs(ours.kind, json.loads(json.dumps(settings)), blobs)


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_and_texts_are_the_goldens(name: str) -> None:
    case = BY_NAME[name]
    ours = opened(FOLDER / name, case)
    rows = json.loads((FOLDER / f"{name}.golden.json").read_text("utf-8"))
    assert len(rows) > 100
    travelled = again(ours)
    for text, ids, decoded in rows:
        for one in (ours, travelled):
            assert one.encode_source(text, **case.options) == ids, text
            assert one.decode(ids) == decoded, text
    assert travelled.languages == ours.languages and travelled.unknown_id == ours.unknown_id
    assert travelled.language_rule == ours.language_rule
    assert again(travelled).to_blobs() == ours.to_blobs()


def test_there_are_goldens_of_every_mechanism() -> None:
    kinds = {opened(FOLDER / name, BY_NAME[name]).kind for name in GOLDEN}
    assert kinds == {"json", "sentencepiece", "bytes"} and len(GOLDEN) >= 6


@pytest.mark.parametrize("name", GOLDEN)
def test_any_id_can_be_named_and_decoded(name: str) -> None:
    ours = opened(FOLDER / name, BY_NAME[name])
    ids = [*range(700), 10**6, 2**31 - 1]
    assert isinstance(ours.decode(ids), str) and len(ours.tokens(ids)) == len(ids)
    assert ours.decode([]) == "" and ours.tokens([]) == []
    named = [(id, token) for id, token in zip(ids, ours.tokens(ids), strict=True)]
    known = [(id, token) for id, token in named if ours.token_id(token) is not None]
    assert len(known) > 200 or ours.kind == "bytes"
    assert all(ours.token_id(token) == id for id, token in known if id != ours.unknown_id)


# ---- live ----------------------------------------------------------------------------------------


def differences(
    ours: Tokenizer, case: Case, folder: Path, given: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """The texts (the samples) whose ids, and whose ids' texts, are not those of transformers."""
    theirs = open_reference(case, folder)
    ids, texts = [], []
    for text in samples() if given is None else given:
        expected = theirs(text).input_ids
        if ours.encode_source(text, **case.options) != expected:
            ids.append(text)
        if ours.decode(expected) != theirs.decode(expected, skip_special_tokens=True):
            texts.append(text)
    return ids, texts


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_live_as_transformers_saves_it(case: Case, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    case.write(tmp_path / "old")
    save_modern(case, tmp_path / "old", tmp_path / "new")
    ours = opened(tmp_path / "new", case)
    assert differences(ours, case, tmp_path / "new") == ([], [])
    assert differences(again(ours), case, tmp_path / "new") == ([], [])


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["t5", "gpt2", "bart", "llama", "mbart50", "pegasus"])
def test_live_flags_of_added_tokens(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    case.write(old)
    add_flagged(case, old)
    save_modern(case, old, new)
    for folder in (old, new) if name in ("t5", "gpt2", "bart") else (new,):
        ours = opened(folder, case)
        assert differences(ours, case, folder, FLAGGED) == ([], [])
        assert differences(again(ours), case, folder, FLAGGED) == ([], [])


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["byt5", "t5", "bart", "pegasus"])
def test_live_pairs(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    (tmp_path / "old").mkdir()
    case.write(tmp_path / "old")
    save_modern(case, tmp_path / "old", tmp_path / "new")
    ours, theirs = opened(tmp_path / "new", case), open_reference(case, tmp_path / "new")
    rows = [text for text in samples() if len(text) < 300]
    for first, second in zip(rows, rows[7:] + rows[:7], strict=True):
        if second:  # an empty one is none at all for transformers
            assert ours.encode_pair(first, second, None)[0] == theirs(first, second).input_ids


EXACT = ("bart", "gpt2", "gpt2-prefix-space", "m2m100", "byt5")
AGREEING = {"mbart": 240, "mbart50": 350, "t5": 330, "pegasus": 350, "llama": 400}
"""Of bare sentencepiece models transformers 5 makes an approximation, which goes its own way at
control characters and blanks (mBART: it does not normalize at all); least texts that agree."""


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_live_old_directories(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path)
    ours = opened(tmp_path, case)
    n = len(samples())
    if case.name in EXACT:
        assert differences(ours, case, tmp_path) == ([], [])
    elif case.name in AGREEING:
        ids, texts = differences(ours, case, tmp_path)
        print(f"{case.name}: {n - len(ids)} of {n} have the ids, {n - len(texts)} the texts")
        assert n - len(ids) >= AGREEING[case.name] and n - len(texts) >= 350
    if case.name not in EXACT:
        check_by_sentencepiece(ours, case, tmp_path)


def check_by_sentencepiece(ours: Tokenizer, case: Case, folder: Path) -> None:
    """By the definition: the model's own numbers and the family's offset."""
    import sentencepiece

    file = next(folder / name for name in SPM_FILES if (folder / name).exists())
    spm = sentencepiece.SentencePieceProcessor(model_file=str(file))
    offset = {"t5": 0, "llama": 0, "pegasus": 103}.get(case.name, 1)
    unknown = {"t5": 2, "llama": 0, "pegasus": 105}.get(case.name, 3)
    assert isinstance(ours, SentencepieceTokenizer)
    added = ours.to_blobs()[0]["sentencepiece"]["added"]
    n = 0
    for text in samples():
        if any(token in text for token in added):
            continue
        ids = [unknown if i == spm.unk_id() else i + offset for i in spm.encode(text)]
        assert ours.encode_target(text) == ids, text
        kept = [i - offset for i in ids if i != unknown]
        assert ours.decode(ids) == spm.decode(kept), text
        n += 1
    assert n >= 300
