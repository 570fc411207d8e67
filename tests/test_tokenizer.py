"""Tokenizers give the ids and texts of transformers, and clear errors for texts that are none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2s_infer.errors import ModelError, OptionError
from s2s_infer.json_tokenizer import JsonTokenizer
from s2s_infer.marian_tokenizer import MarianSettings, MarianTokenizer
from s2s_infer.tokenizer import Tokenizer
from s2s_infer.tokenizer_files import open_tokenizer, tokenizer_from_blobs
from texts import WRITTEN, texts

FOLDER = Path(__file__).parent / "fixtures" / "checkpoints"
KINDS = ("marian-tiny", "marian-separate", "bpe")


def tokenizer(name: str) -> Tokenizer:
    result, missing = open_tokenizer(FOLDER / name)
    assert result is not None and missing is None
    return result


@pytest.fixture(scope="module")
def marian() -> MarianTokenizer:
    return MarianTokenizer.from_directory(FOLDER / "marian-tiny")


@pytest.fixture(scope="module")
def bpe() -> JsonTokenizer:
    result = tokenizer("bpe")
    assert isinstance(result, JsonTokenizer)
    return result


# ---- equal to transformers ---------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_ids_and_texts_are_those_of_transformers(name: str) -> None:
    ours = tokenizer(name)
    golden = json.loads((FOLDER / f"{name}.golden.json").read_text(encoding="utf-8"))
    samples = texts()
    assert len(golden) == len(samples) >= 400
    for text, expected in zip(samples, golden, strict=True):
        assert ours.encode_source(text) == expected["source"], text
        assert ours.encode_target(text) == expected["target"], text
        assert ours.decode(expected["target"]) == expected["decoded"], text


@pytest.mark.parametrize("name", KINDS)
def test_a_tokenizer_that_travelled_in_a_file_is_the_same(name: str) -> None:
    ours = tokenizer(name)
    settings, blobs = ours.to_blobs()
    again = tokenizer_from_blobs(ours.kind, json.loads(json.dumps(settings)), blobs)
    assert again.languages == ours.languages and again.unknown_id == ours.unknown_id
    for text in texts(200):
        ids = ours.encode_source(text)
        assert again.encode_source(text) == ids
        assert again.encode_target(text) == ours.encode_target(text)
        assert again.decode(ids) == ours.decode(ids)
        assert again.tokens(ids) == ours.tokens(ids)
    assert again.to_blobs() == ours.to_blobs()


def test_a_tokenizer_without_special_tokens_has_ids_of_the_vocabulary() -> None:
    settings, blobs = tokenizer("marian-tiny").to_blobs()
    bare = tokenizer_from_blobs("marian", {**settings, "special_tokens": []}, blobs)
    bare.check_vocabulary(1 << 20, 1 << 20)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc_cf", "identity"])
def test_live_with_the_usual_normalization(rule: str, model_type: str, tmp_path: Path) -> None:
    import sentencepiece
    from transformers import MarianTokenizer as Reference

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            t for t in texts(400, seed=5) if 0 < len(t) < 200 and "\x00" not in t
        ),
        model_prefix=str(tmp_path / "source"),
        vocab_size=900,
        hard_vocab_limit=False,
        model_type=model_type,
        normalization_rule_name=rule,
        byte_fallback=rule == "identity",
        user_defined_symbols=["<ent>", "the"],
        minloglevel=2,
    )
    (tmp_path / "source.model").rename(tmp_path / "source.spm")
    (tmp_path / "target.spm").write_bytes((tmp_path / "source.spm").read_bytes())
    spm = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "source.spm"))
    names = [spm.id_to_piece(i) for i in range(spm.get_piece_size())]
    names = ["</s>", "<unk>", ">>en<<", ">>zh<<", *names[3:], "<pad>"]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    config = {
        "extra_special_tokens": ["<ent>", "<ent>2", "nt>2x"] if rule == "nfkc_cf" else [],
        "clean_up_tokenization_spaces": rule == "identity",
        "split_special_tokens": rule == "nmt_nfkc" and model_type == "bpe",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))

    theirs = Reference.from_pretrained(tmp_path)
    ours = MarianTokenizer.from_directory(tmp_path)
    for text in [*texts(500, seed=9), "a <ent> b<ent>2x", "nt>2x<ent", "x <ent", "it 's n't . , !"]:
        expected = theirs(text).input_ids
        assert ours.encode_source(text) == expected, text
        target = theirs(text_target=text, add_special_tokens=False).input_ids
        assert ours.encode_target(text) == target, text
        known = [i for i in expected if i < len(vocab)]
        assert ours.decode(known) == theirs.decode(known, skip_special_tokens=True), text
        assert ours.tokens(known) == theirs.convert_ids_to_tokens(known), text


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_live_with_a_saved_tokenizer(tmp_path: Path) -> None:
    """What save_pretrained writes (added_tokens_decoder, named tokens) reads back alike."""
    from transformers import MarianTokenizer as Reference

    Reference.from_pretrained(FOLDER / "marian-tiny").save_pretrained(tmp_path)
    theirs = Reference.from_pretrained(tmp_path)
    ours = MarianTokenizer.from_directory(tmp_path)
    for text in texts(300, seed=3):
        assert ours.encode_source(text) == theirs(text).input_ids, text


# ---- languages ---------------------------------------------------------------------------------


def test_the_target_language_goes_first(marian: MarianTokenizer, bpe: JsonTokenizer) -> None:
    for ours in (marian, bpe):
        assert set(ours.languages) == {"en", "zh"}
        code = ours.languages["en"]
        plain = ours.encode_source("今天天气很好。")
        assert ours.encode_source("今天天气很好。", to="en") == [code, *plain]
        assert ours.encode_source(">>en<<今天天气很好。", to="en") == [code, *plain]
    assert marian.encode_source(">>en<< 今天天气很好。") == [code_of(marian), *plain_of(marian)]


def code_of(ours: Tokenizer) -> int:
    return ours.languages["en"]


def plain_of(ours: Tokenizer) -> list[int]:
    return ours.encode_source("今天天气很好。")


def test_a_code_is_the_whole_of_an_empty_text(marian: MarianTokenizer) -> None:
    assert marian.encode_source("", to="zh") == [marian.languages["zh"], *marian.encode_source("")]


@pytest.mark.parametrize("name", KINDS[:1] + KINDS[2:])
def test_a_wrong_language_is_an_option_error(name: str) -> None:
    ours = tokenizer(name)
    with pytest.raises(
        OptionError, match=r"unknown target language 'xx'; the model knows en, zh\."
    ):
        ours.encode_source("text", to="xx")
    with pytest.raises(OptionError, match=re.escape("code '>>zh<<', but to='en' was given.")):
        ours.encode_source(">>zh<< text", to="en")


def test_a_model_without_languages_says_so() -> None:
    settings, blobs = tokenizer("marian-separate").to_blobs()
    vocab = json.loads(blobs["vocab.json"])
    vocab["no code"] = vocab.pop(">>en<<")
    ours = tokenizer_from_blobs(
        "marian", settings, {**blobs, "vocab.json": json.dumps(vocab).encode()}
    )
    with pytest.raises(OptionError, match=r"no language codes, but to='en' was given\."):
        ours.encode_source("text", to="en")


# ---- texts that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"abc\xff", "byte 0xff at offset 3"),
        (b"\xe4\xbb", "byte 0xe4 at offset 0"),
        (b"\xed\xa0\x80", "byte 0xed at offset 0"),
        (b"\xc0\x80", "byte 0xc0 at offset 0"),
        ("ab\ud800", "lone surrogate U+D800 at position 2"),
        ("\udfff", "lone surrogate U+DFFF at position 0"),
        ("x\udc80y", "lone surrogate U+DC80 at position 1"),
        (None, "must be a str, not NoneType"),
        (7, "must be a str, not int"),
        (["a"], "must be a str, not list"),
    ],
)
def test_invalid_unicode_is_one_clear_sentence(name: str, text: Any, message: str) -> None:
    ours = tokenizer(name)
    for encode in (ours.encode_source, ours.encode_target):
        with pytest.raises(OptionError, match=re.escape(message)) as error:
            encode(text)
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_bytes_that_are_utf8_are_text(marian: MarianTokenizer) -> None:
    for text in WRITTEN:
        assert marian.encode_source(text.encode()) == marian.encode_source(text)


# ---- decoding ----------------------------------------------------------------------------------


def test_decoding_takes_any_id(marian: MarianTokenizer, bpe: JsonTokenizer) -> None:
    for ours in (marian, bpe):
        assert ours.decode([]) == ""
        assert ours.tokens([]) == []
        assert isinstance(ours.decode([10**6, 2**31 - 1]), str)
        assert len(ours.tokens([10**6, 2**31 - 1, 0])) == 3


def test_numpy_ids_are_ids(marian: MarianTokenizer, bpe: JsonTokenizer) -> None:
    import numpy as np

    for ours in (marian, bpe):
        ids = ours.encode_target("The weather is nice today.")
        assert ours.decode(np.array(ids, np.int32)) == ours.decode(ids)
        assert ours.tokens(np.array(ids, np.int32)) == ours.tokens(ids)


def test_the_longest_added_token_is_found_first() -> None:
    settings, blobs = tokenizer("marian-tiny").to_blobs()
    added = {"<pad>": 98, "<pad>1": 7, "d>12": 8}
    ours = tokenizer_from_blobs("marian", {**settings, "added_tokens": added}, blobs)
    assert ours.encode_target("<pad>1<pad>d>12") == [7, 98, 8]
    assert ours.encode_target("<pad>12")[0] == 7


def test_unknown_pieces_have_the_unknown_id(marian: MarianTokenizer) -> None:
    assert marian.unknown_id in marian.encode_target("😀")
    assert "😀" not in marian.decode(marian.encode_target("😀"))


# ---- files -------------------------------------------------------------------------------------


def test_a_directory_without_tokenizer_names_the_file(tmp_path: Path) -> None:
    assert open_tokenizer(tmp_path) == (
        None,
        f"{tmp_path} has no source.spm and no tokenizer.json (nor merges.txt, "
        "sentencepiece.bpe.model, spiece.model, tokenizer.model), so it takes and gives ids only.",
    )
    (tmp_path / "source.spm").write_bytes(b"x")
    assert "no target.spm" in (open_tokenizer(tmp_path)[1] or "")
    (tmp_path / "target.spm").write_bytes(b"x")
    assert "no vocab.json" in (open_tokenizer(tmp_path)[1] or "")


def test_ids_beyond_the_model_are_a_model_error(marian: MarianTokenizer) -> None:
    n = len(json.loads((FOLDER / "marian-tiny" / "vocab.json").read_text(encoding="utf-8")))
    marian.check_vocabulary(n, n)
    with pytest.raises(ModelError, match=rf"'<pad>' the id {n - 1}, but .* has {n - 1} tokens"):
        marian.check_vocabulary(n - 1, n)
    with pytest.raises(ModelError, match=r"vocab\.json gives token"):
        marian.check_vocabulary(n, n - 1)


def test_settings_survive_json() -> None:
    settings = MarianSettings(added_tokens={"<x>": 3}, split_special_tokens=True)
    again = MarianSettings.from_dict(json.loads(json.dumps(settings.to_dict())), "settings")
    assert again == settings
    with pytest.raises(ModelError, match="lacks or does not know 'more'"):
        MarianSettings.from_dict({**settings.to_dict(), "more": 1}, "settings")


def test_a_marian_model_does_not_import_the_other_library() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from s2s_infer.tokenizer_files import open_tokenizer\n"
        "assert not {'sentencepiece', 'tokenizers', 'safetensors'} & set(sys.modules)\n"
        f"assert open_tokenizer(Path({str(FOLDER / 'marian-tiny')!r}))[0]\n"
        "assert 'sentencepiece' in sys.modules\n"
        "assert not {'tokenizers', 'safetensors', 'transformers', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
