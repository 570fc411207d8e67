"""Languages, task prefixes, forced tokens: what a family's files add to texts and outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import s2s_infer
from checkpoint_files import edit_json
from random_checkpoint import POSITIONS, write_checkpoint
from s2s_infer.cli import main
from s2s_infer.errors import InputTooLongError, ModelError, OptionError, UnsupportedError
from s2s_infer.formats.native import save_native
from s2s_infer.languages import LanguageRule
from s2s_infer.loaders import load_checkpoint

TEXT = "The weather is nice."
SIZE = 710
FAMILIES = {"mbart": "mbart", "mbart50": "mbart", "m2m100": "m2m_100", "bart": "bart"}
OPTIONS: dict[str, dict[str, Any]] = {
    "mbart": {"source_lang": "en_XX", "to": "ro_RO"},
    "mbart50": {"source_lang": "en_XX", "to": "zh_CN"},
    "m2m100": {"source_lang": "en", "to": "zh"},
    "bart": {},
}
LIMIT = {"max_new_tokens": 5}


def folder_of(name: str, tmp: Path, **config: Any) -> Path:
    if name == "mbart50":  # as its checkpoints have it
        config.setdefault("decoder_start_token_id", 2)
    folder = write_checkpoint(tmp / name, FAMILIES[name], SIZE, name, **config)
    edit_json(folder / "tokenizer_config.json", src_lang=None)
    return folder


@pytest.fixture(scope="module", params=list(FAMILIES))
def named(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, s2s_infer.Model]]:
    config = {"forced_bos_token_id": 0} if request.param == "bart" else {}
    folder = folder_of(request.param, tmp_path_factory.mktemp("text"), **config)
    with s2s_infer.load(folder) as model:
        yield request.param, model


def rule_of(model: s2s_infer.Model) -> LanguageRule:
    rule = model.tokenizer.language_rule
    assert rule is not None
    return rule


def test_what_a_source_becomes(named: tuple[str, s2s_infer.Model]) -> None:
    name, model = named
    inner = model.tokenizer.encode_target(TEXT)
    result = model.generate([TEXT], **OPTIONS[name], **LIMIT)[0]
    if name == "bart":
        assert result.input_ids == [0, *inner, 2]
        return
    code = model.special_tokens.languages[OPTIONS[name]["source_lang"]]
    assert result.input_ids == ([*inner, 2, code] if name == "mbart" else [code, *inner, 2])


def test_where_the_target_language_goes(named: tuple[str, s2s_infer.Model]) -> None:
    name, model = named
    result = model.generate([TEXT], **OPTIONS[name], **LIMIT)[0]
    trace = model.trace(TEXT, **OPTIONS[name], **LIMIT)
    if name == "bart":
        assert result.token_ids[0] == 0 and trace["target.ids"][:2].tolist() == [2, 0]
        return
    code = model.special_tokens.languages[OPTIONS[name]["to"]]
    if name == "mbart":
        assert trace["target.ids"][0] == code
    else:
        assert result.token_ids[0] == code and trace["target.ids"][:2].tolist() == [2, code]
    token = model.tokenizer.tokens([code])[0]
    assert token not in (result.text or "")
    other = dict(OPTIONS[name], to=next(c for c in model.languages if c != OPTIONS[name]["to"]))
    others = model.trace(TEXT, **other, **LIMIT)["target.ids"].tolist()
    assert others != trace["target.ids"].tolist()


def test_every_call_takes_the_languages(named: tuple[str, s2s_infer.Model]) -> None:
    name, model = named
    options = OPTIONS[name]
    text = model.translate(TEXT, **options, **LIMIT)
    assert model.generate([TEXT], **options, **LIMIT)[0].text == text
    assert "".join(model.stream(TEXT, **options, **LIMIT)) == text
    assert [r.text for r in model.iterate([TEXT], **options, **LIMIT)] == [text]
    source = {key: value for key, value in options.items() if key != "to"}
    assert model.encode(TEXT, **source).shape[1] == model.config.d_model
    score = model.score([TEXT], ["nice"], **options)[0]
    inner = model.tokenizer.encode_target("nice")
    forced = name in ("mbart50", "m2m100", "bart")
    assert score.token_ids[forced:] == inner and len(score.token_ids) == len(inner) + forced


def test_a_target_prefix_comes_after_the_forced_token(named: tuple[str, s2s_infer.Model]) -> None:
    name, model = named
    result = model.generate([TEXT], target_prefix="nice", **OPTIONS[name], **LIMIT)[0]
    inner = model.tokenizer.encode_target("nice")
    forced = name in ("mbart50", "m2m100", "bart")
    assert result.token_ids[forced : len(inner) + forced] == inner
    assert (result.text or "").startswith("nice")
    empty = model.generate([TEXT], target_prefix="", **OPTIONS[name], **LIMIT)[0]
    assert empty == model.generate([TEXT], **OPTIONS[name], **LIMIT)[0]


@pytest.mark.parametrize("name", ["mbart", "mbart50", "m2m100"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_lang": None}, "give the option source_lang, such as"),
        ({"to": None}, "give the option to, such as"),
        ({"to": "xx"}, r"unknown target language 'xx'; .* languages"),
        ({"to": "english"}, r"unknown target language 'english'; near it are .*en"),
        ({"source_lang": "zhong"}, r"unknown source language 'zhong'; near it are .*zh"),
        ({"task": "summarization"}, "unknown task 'summarization'; the model's tasks are none"),
        ({"to": 5}, "to must be the code of a language, not 5"),
        ({"task": 5}, "task must be the name of a task, not 5"),
    ],
)
def test_wrong_and_missing_languages(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = s2s_infer.load(folder_of(name, tmp_path))
    with pytest.raises(OptionError, match=message) as error:
        model.generate([TEXT], **{**OPTIONS[name], **changes})
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 300


def test_ids_need_no_languages_and_take_none(tmp_path: Path) -> None:
    model = s2s_infer.load(folder_of("m2m100", tmp_path))
    assert model.generate_ids([[5, 6, 2]], **LIMIT)
    with pytest.raises(OptionError, match="is given as token ids, so to='zh' cannot apply"):
        next(model.iterate([[5, 6, 2]], to="zh"))


def test_the_checkpoint_may_name_the_languages(tmp_path: Path) -> None:
    folder = folder_of("mbart50", tmp_path)
    edit_json(folder / "tokenizer_config.json", src_lang="de_DE", tgt_lang="fr_XX")
    model = s2s_infer.load(folder)
    rule = rule_of(model)
    result = model.generate([TEXT], **LIMIT)[0]
    assert result.input_ids[0] == rule.codes["de_DE"] and result.token_ids[0] == rule.codes["fr_XX"]
    result = model.generate([TEXT], to="en_XX", **LIMIT)[0]
    assert result.token_ids[0] == rule.codes["en_XX"]
    result = model.generate([TEXT], forced_bos_token_id=7, **LIMIT)[0]
    assert result.token_ids[0] == 7
    edit_json(folder / "tokenizer_config.json", src_lang="xx_XX")
    with pytest.raises(ModelError, match="sets src_lang to 'xx_XX', which is no language"):
        s2s_infer.load(folder)


def test_a_checkpoint_of_one_target_language_needs_no_option(tmp_path: Path) -> None:
    folder = folder_of("mbart50", tmp_path)
    codes = rule_of(s2s_infer.load(folder)).codes
    edit_json(folder / "config.json", forced_bos_token_id=codes["en_XX"])
    model = s2s_infer.load(folder)
    assert model.generate([TEXT], source_lang="de_DE", **LIMIT)[0].token_ids[0] == codes["en_XX"]
    folder = folder_of("mbart", tmp_path)
    edit_json(folder / "config.json", decoder_start_token_id=codes["ro_RO"])
    model = s2s_infer.load(folder)
    trace = model.trace(TEXT, source_lang="en_XX", **LIMIT)
    assert trace["target.ids"][0] == codes["ro_RO"]


def test_truncation_keeps_the_language_and_the_end(named: tuple[str, s2s_infer.Model]) -> None:
    name, model = named
    long = TEXT * 20
    with pytest.raises(InputTooLongError, match=f"but the model has {POSITIONS} positions"):
        model.generate([long], **OPTIONS[name])
    cut = model.generate([long], truncate=True, **OPTIONS[name], **LIMIT)[0]
    whole = model.generate([TEXT], **OPTIONS[name], **LIMIT)[0]
    n_last = 2 if name == "mbart" else 1
    assert cut.input_truncated and len(cut.input_ids) == POSITIONS
    assert cut.input_ids[-n_last:] == whole.input_ids[-n_last:]
    assert cut.input_ids[0] == whole.input_ids[0]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_native_file_has_the_same_rules(name: str, tmp_path: Path) -> None:
    tasks = {"summarization": {"prefix": "sum: ", "num_beams": 2, "max_length": 9}}
    folder = folder_of(name, tmp_path, task_specific_params=tasks)
    save_native(load_checkpoint(folder), tmp_path / "model.s2s")
    first, second = s2s_infer.load(folder), s2s_infer.load(tmp_path / "model.s2s")
    assert second.info()["input"] == first.info()["input"]
    assert second.info()["tasks"] == first.info()["tasks"] != {}
    for options in (OPTIONS[name], {**OPTIONS[name], "task": "summarization"}):
        results = [model.generate([TEXT], **options)[0] for model in (first, second)]
        assert results[0] == results[1]


# ---- tasks ---------------------------------------------------------------------------------------

TASKS: dict[str, Any] = {
    "summarization": {"prefix": "sum: ", "num_beams": 3, "max_length": 7, "min_length": 2},
    "translation_en_to_de": {"prefix": "English to German: "},
    "plain": {"early_stopping": True},
}


def test_a_task_adds_its_prefix_and_its_defaults(tmp_path: Path) -> None:
    model = s2s_infer.load(folder_of("bart", tmp_path, task_specific_params=TASKS))
    prefixed = model.tokenizer.encode_source("sum: " + TEXT)
    result = model.generate([TEXT], task="summarization")[0]
    assert result.input_ids == prefixed
    explicit = model.generate(["sum: " + TEXT], num_beams=3, max_length=7, min_length=2)[0]
    assert result.token_ids == explicit.token_ids and len(result.token_ids) <= 6
    assert len(model.generate([TEXT], task="summarization", max_new_tokens=3)[0].token_ids) <= 3
    german = model.generate([TEXT], task="translation_en_to_de", **LIMIT)[0]
    assert model.generate([TEXT], source_lang="en", to="de", **LIMIT)[0] == german
    assert german.input_ids == model.tokenizer.encode_source("English to German: " + TEXT)
    plain = model.generate([TEXT], task="plain", **LIMIT)[0]
    assert plain.input_ids == model.tokenizer.encode_source(TEXT)
    with pytest.raises(OptionError, match="tasks are plain, summarization, translation_en_to_de"):
        model.generate([TEXT], task="sumarize")
    with pytest.raises(OptionError, match=r"no source languages, but source_lang='en' was given"):
        model.generate([TEXT], source_lang="en")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([1], "task_specific_params to .1., not tasks by name"),
        ({"a": 1}, "sets the task 'a' to 1"),
        ({"a": {"prefix": 5}}, "sets the prefix of 'a' to 5"),
        ({"a": {"num_beams": -1}}, "num_beams"),
        ({f"t{i}": {} for i in range(1001)}, "task_specific_params to"),
    ],
)
def test_tasks_that_cannot_be(params: Any, message: str, tmp_path: Path) -> None:
    folder = folder_of("bart", tmp_path)
    edit_json(folder / "config.json", task_specific_params=params)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(folder)


def test_a_mask_in_a_source_is_one_token(tmp_path: Path) -> None:
    model = s2s_infer.load(folder_of("bart", tmp_path))
    result = model.generate(["The weather is <mask> today."], **LIMIT)[0]
    mask = model.tokenizer.token_id("<mask>")
    assert result.input_ids.count(mask) == 1
    assert result.text is not None and "<mask>" not in result.text


def test_spans_need_sentinels(tmp_path: Path) -> None:
    model = s2s_infer.load(folder_of("bart", tmp_path))
    with pytest.raises(UnsupportedError, match="has no sentinels"):
        model.fill_spans("The <extra_id_0> is nice.")


def test_spans_are_read_between_the_sentinels() -> None:
    from s2s_infer.byte_tokenizer import ByteTokenizer
    from s2s_infer.results import GenerationResult, Hypothesis
    from s2s_infer.spans import fill, read_spans, sentinels

    tokenizer = ByteTokenizer()
    ids = tokenizer.encode_target("x<extra_id_0> cat <extra_id_1>mat<extra_id_2>")
    assert read_spans(ids, tokenizer) == {259: "cat", 260: "mat", 261: ""}
    hypothesis = Hypothesis(
        text="", token_ids=ids, tokens=[], score=0.0, token_logprobs=[], finish_reason="eos"
    )
    result = GenerationResult([hypothesis], [], False, None)
    filled = fill("The <extra_id_1> on a <extra_id_0>, <extra_id_7>.", result, tokenizer)
    assert filled.text == "The mat on a cat, ." and filled.spans == ("mat", "cat", "")
    for text, message in (
        ("no sentinel", "the text has no sentinel"),
        ("<extra_id_125>", "the model has no sentinel <extra_id_125>"),
        ("<extra_id_0> <extra_id_0>", "the same sentinel twice"),
    ):
        with pytest.raises(OptionError, match=message):
            sentinels(text, tokenizer)


# ---- what info and the command say ------------------------------------------------------------


def test_info_says_what_is_added(
    named: tuple[str, s2s_infer.Model], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name, model = named
    sentences = " | ".join(model.info()["input"])
    expected = {
        "mbart": r"TEXT </s> SOURCE_LANG.*decoder starts with the token of the option to",
        "mbart50": r"SOURCE_LANG TEXT </s>.*output begins with the token of the option to",
        "m2m100": r"SOURCE_LANG TEXT </s>.*tokenizer_class M2M100Tokenizer of tokenizer_config",
        "bart": r"<s> TEXT </s>.*output begins with <s> \(forced_bos_token_id",
    }[name]
    assert re.search(expected, sentences), sentences
    folder = folder_of(name, tmp_path, task_specific_params=TASKS)
    assert main(["info", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "what is added\n  a text becomes" in printed
    assert "the option task=summarization adds 'sum: ' before a text" in printed


def test_the_command_takes_the_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(folder_of("m2m100", tmp_path, task_specific_params=TASKS))
    languages = ["--source-lang", "en", "--to", "zh"]
    for command in ("translate", "generate"):
        line = [command, "-m", folder, TEXT, "--json", "--max-new-tokens", "4", *languages]
        assert main([*line, "--task", "summarization"]) == 0
        ids = json.loads(capsys.readouterr().out)["input_ids"]
        model = s2s_infer.load(folder)
        assert ids == model.tokenizer.encode_source("sum: " + TEXT, source_lang="en")
    assert main(["score", "-m", folder, TEXT, TEXT, *languages]) == 0
    assert main(["trace", "-m", folder, TEXT, *languages]) == 0
    assert main(["translate", "-m", folder, TEXT]) == 2
    assert "give the option" in capsys.readouterr().err


def test_convert_checks_with_the_languages(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("sacrebleu")
    folder = str(folder_of("mbart50", tmp_path))
    (tmp_path / "texts").write_text("The weather is nice.\nI like apples.\n")
    line = ["convert", folder, str(tmp_path / "x.s2s"), "--dtype", "int8"]
    languages = ["--source-lang", "en_XX", "--to", "de_DE"]
    assert main([*line, *languages]) == 2
    assert "--to is for --calibrate FILE and --check FILE" in capsys.readouterr().err
    files = ["--check", str(tmp_path / "texts"), "--calibrate", str(tmp_path / "texts")]
    assert main([*line, *files, *languages]) == 0
    assert "token agreement" in capsys.readouterr().out
