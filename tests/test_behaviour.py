"""Every call with every family: a real result, or one sentence that says why there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import parity
import parity_encoders
import parity_families
import s2s_infer
from s2s_infer import Model, OptionError, S2SError, UnsupportedError

PAIRS = (  # encoder and decoder
    *("bart", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5", "t5gemma", "umt5"),
)
CONTINUING = ("deepseek_v2", "deepseek_v3", "gpt2", "gpt_bigcode", "llama")
ENCODERS = tuple(
    f"{family}{head}"
    for family in ("Bert", "DistilBert", "Roberta")
    for head in ("Model", "ForMaskedLM", "ForSequenceClassification")
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
TEXT = "w20 w7 w11 w9 w30"
IDS = [25, 12, 16, 14, 35]
LIMIT: dict[str, Any] = {"max_new_tokens": 9}


def folder_of(name: str) -> Path:
    if name == "marian":
        return parity.FIXTURES / "relu-tied"
    if name in ENCODERS:
        return parity_encoders.FIXTURES / f"{name}-24"
    return parity_families.FIXTURES / name


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """A family's small random checkpoint with a tokenizer of whole words."""

    @cache
    def opened(name: str) -> Model:
        folder = tmp_path_factory.mktemp("behaviour") / name
        shutil.copytree(folder_of(name), folder)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        words = [*SPECIAL, *(f"w{i}" for i in range(config.get("vocab_size", 60) - len(SPECIAL)))]
        vocab = {word: i for i, word in enumerate(words)}
        tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(list(SPECIAL))
        if name in ENCODERS:
            around = [("</s>", 2)]
            tokenizer.post_processor = processors.TemplateProcessing(
                single="</s> $A </s>", pair="</s> $A </s> $B </s>", special_tokens=around
            )
        tokenizer.save(str(folder / "tokenizer.json"))
        names = {"mask_token": "<mask>", "cls_token": "</s>", "sep_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
        return s2s_infer.load(folder)

    return opened


def refused(call: Callable[[], Any], words: str) -> None:
    """The call ends with one sentence that has these words."""
    with pytest.raises((OptionError, UnsupportedError), match=words) as raised:
        call()
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 300
    assert isinstance(raised.value, S2SError)


# ---- Calls that generate: of encoder-decoders and of decoders alone -----------------------------


def greedy(model: Model) -> None:
    (result,) = model.generate_ids([IDS], **LIMIT)
    (by_text,) = model.generate([TEXT], **LIMIT)
    assert result == by_text and result.input_ids == IDS
    assert result.finish_reason in ("eos", "length")
    assert len(result.token_logprobs or ()) == len(result.token_ids) + bool(result.end_token_id)
    assert len(result.token_logprobs or ()) <= 9
    several = model.generate_ids([[5], IDS, [*IDS, *IDS]], **LIMIT)
    assert several[1] == result
    quick = model.generate_ids([IDS], **LIMIT, return_scores=False)[0]
    assert quick.token_ids == result.token_ids and quick.score is None


def n_best(model: Model) -> None:
    (result,) = model.generate_ids([IDS], **LIMIT, num_beams=4, num_return_sequences=4)
    scores = [h.score or 0.0 for h in result.hypotheses]
    outputs = {(tuple(h.token_ids), h.end_token_id) for h in result.hypotheses}
    assert len(outputs) == 4 and scores == sorted(scores, reverse=True)
    penalty = model.generation_config.length_penalty
    for h in result.hypotheses:
        logprobs = h.token_logprobs or []
        assert h.score == pytest.approx(sum(logprobs) / len(logprobs) ** penalty, abs=1e-5)


def sampling(model: Model) -> None:
    options = {**LIMIT, "do_sample": True, "num_return_sequences": 5, "top_k": 0}
    (first,) = model.generate_ids([IDS], **options, seed=3)
    (again,) = model.generate_ids([IDS], **options, seed=3)
    (other,) = model.generate_ids([IDS], **options, seed=4)
    assert first == again and first.seed == 3
    assert [h.token_ids for h in first.hypotheses] != [h.token_ids for h in other.hypotheses]


def stream(model: Model) -> None:
    for beams in (1, 3):
        pieces = list(model.stream(TEXT, **LIMIT, num_beams=beams))
        assert "".join(pieces) == model.generate(TEXT, **LIMIT, num_beams=beams)[0].text
        assert len(pieces) >= 1 or not "".join(pieces)


def score(model: Model) -> None:
    target = IDS[::-1]
    (result,) = model.score([IDS], [target])
    assert result.token_ids == target and len(result.token_logprobs) == len(target) + 1
    assert result.logprob == pytest.approx(sum(result.token_logprobs))
    (forced,) = model.generate_ids([IDS], prefix=target, max_new_tokens=1)
    assert list(forced.token_logprobs or ())[:5] == list(result.token_logprobs)[:5]
    assert model.score(TEXT, "w30 w9 w11 w7 w20") == [result]


def alternatives(model: Model) -> None:
    (result,) = model.generate_ids([IDS], **LIMIT, return_alternatives=3)
    for step, token in zip(result.alternatives or (), result.token_ids, strict=False):
        assert step[0].token_id == token and 1 <= len(step) <= 3  # 1: forced at the limit
        assert [a.logprob for a in step] == sorted((a.logprob for a in step), reverse=True)
        assert all(a.token == SPECIAL[a.token_id] for a in step if a.token_id < len(SPECIAL))
    assert len(result.alternatives or ()) == len(result.token_logprobs or ())


def prefixes(model: Model) -> None:
    (result,) = model.generate_ids([IDS], prefix=[7, 8], **LIMIT, num_beams=2)
    assert result.token_ids[:2] == [7, 8]
    assert len(result.token_logprobs or ()) <= 2 + 9
    by_text = model.generate(TEXT, target_prefix="w2 w3", **LIMIT, num_beams=2)[0]
    assert by_text == result and (result.text or "").startswith("w2 w3")


def constraints(model: Model) -> None:
    plain = model.generate_ids([IDS], **LIMIT)[0].token_ids
    first, end = plain[0], model.special_tokens.end[0]

    def outputs(**options: Any) -> list[list[int]]:
        (result,) = model.generate_ids(
            [IDS], num_return_sequences=3, num_beams=3, **{**LIMIT, **options}
        )
        return [h.token_ids for h in result.hypotheses]

    assert all(first not in ids for ids in outputs(suppress_tokens=[first]))
    assert all(ids[0] != first for ids in outputs(begin_suppress_tokens=[first]))
    assert all(len(ids) >= 5 for ids in outputs(min_new_tokens=5))
    pairs = [ids[i : i + 2] for ids in outputs(bad_words_ids=[[a, b] for a in plain for b in plain])
             for i in range(len(ids) - 1)]  # fmt: skip
    assert not any(pair[0] in plain and pair[1] in plain for pair in pairs)
    endless = {"suppress_tokens": [end], "forced_eos_token_id": []}
    for ids in outputs(no_repeat_ngram_size=1, **endless):
        assert len(set(ids)) == len(ids) == 9
    ended = model.generate_ids([IDS], **LIMIT, forced_eos_token_id=17, eos_token_id=17)[0]
    assert ended.end_token_id == 17
    wide = model.generate_ids([IDS], **LIMIT, repetition_penalty=1e6)[0].token_ids
    assert len(set(wide)) == len(wide)


def forced_bos(model: Model) -> None:
    (result,) = model.generate_ids([IDS], **LIMIT, forced_bos_token_id=17, num_beams=2)
    assert result.token_ids[0] == 17


def traced(model: Model) -> None:
    arrays = model.trace(IDS, **LIMIT)
    n = len(arrays["output.ids"])
    assert arrays["decoder.logits"].shape[0] == n
    assert arrays["decoder.0.self_attn.weights"].sum(2) == pytest.approx(1.0)


GENERATING = (
    *(greedy, n_best, sampling, stream, score, alternatives, prefixes, constraints, traced),
)


@pytest.mark.parametrize("call", GENERATING, ids=lambda call: call.__name__)
@pytest.mark.parametrize("name", [*PAIRS, *CONTINUING])
def test_generating(load: Callable[[str], Model], name: str, call: Callable[[Model], None]) -> None:
    call(load(name))


@pytest.mark.parametrize("name", PAIRS)
def test_what_needs_an_encoder_and_a_decoder(load: Callable[[str], Model], name: str) -> None:
    model = load(name)
    forced_bos(model)
    (result,) = model.generate_ids([IDS], **LIMIT, return_alignment=True)
    assert result.alignment is not None
    assert result.alignment.shape == (len(result.token_logprobs or ()), len(IDS))
    assert result.alignment.sum(1) == pytest.approx(1.0)
    translated = model.translate(TEXT, **LIMIT)
    assert translated == model.generate(TEXT, **LIMIT)[0].text
    assert model.generate("  ")[0].token_ids == []
    (ngrams,) = model.generate_ids([IDS], **LIMIT, encoder_no_repeat_ngram_size=1)
    assert not set(ngrams.token_ids) & set(IDS)
    refused(lambda: model.prompt(IDS), "a prompt is for a decoder alone")
    sentinels = "has no sentinel|no sentinels"
    refused(lambda: model.fill_spans(TEXT), sentinels)


@pytest.mark.parametrize("name", CONTINUING)
def test_a_decoder_alone(load: Callable[[str], Model], name: str) -> None:
    """The translation of the article's GPT form: source, separator, and then the target."""
    model, separator = load(name), 3
    form = [*IDS, separator]
    (result,) = model.generate_ids([form], **LIMIT)
    (scored,) = model.score([form], [result.token_ids])
    n = len(result.token_ids)
    assert scored.token_logprobs[:n] == (result.token_logprobs or [])[:n]
    prompt = model.prompt(IDS)
    (shared,) = model.generate_ids([[separator]], prompt=prompt, **LIMIT)
    assert shared.hypotheses == result.hypotheses and shared.n_reused == len(IDS)
    for call in (
        lambda: model.translate(TEXT),
        lambda: model.encode(TEXT),
        lambda: model.encode_ids([IDS]),
        lambda: model.generate(TEXT, to="en"),
    ):
        refused(call, f"needs an encoder, but this model .{name}. is a decoder alone")
    refused(lambda: model.generate(TEXT, return_alignment=True), "return_alignment must be 0 for a")
    refused(lambda: model.generate(TEXT, encoder_no_repeat_ngram_size=2), "must be 0 for a model")


# ---- Calls that read the encoder ----------------------------------------------------------------


@pytest.mark.parametrize("name", [*PAIRS, *ENCODERS])
def test_encoding(load: Callable[[str], Model], name: str) -> None:
    model = load(name)
    (states,) = model.encode_ids([IDS])
    assert states.shape == (5, model.config.d_model) and np.isfinite(states).all()
    (vector,) = model.encode([TEXT], pooling="mean", normalize=True)
    assert np.linalg.norm(vector) == pytest.approx(1.0)
    assert model.trace(IDS)["encoder.output"].tobytes() == states.tobytes()
    if name in ENCODERS:
        assert model.encode(TEXT, pooling="cls").shape == (model.config.d_model,)
    else:
        refused(lambda: model.encode(TEXT, pooling="pooler"), "pooler")


@pytest.mark.parametrize("name", [*PAIRS, *CONTINUING, *ENCODERS])
def test_heads(load: Callable[[str], Model], name: str) -> None:
    model = load(name)
    if name.endswith("MaskedLM"):
        (candidates,) = model.fill_mask("w20 <mask> w7", top_k=4)
        probabilities = [c.probability for c in candidates]
        assert len(candidates) == 4 and probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-6
    else:
        refused(lambda: model.fill_mask("w20 <mask> w7"), "masked-language-model head|fill")
    if name.endswith("Classification"):
        found = model.classify(TEXT)
        assert sum(score for _, score in found.scores) == pytest.approx(1.0)
        assert found.score == max(score for _, score in found.scores)
    else:
        refused(lambda: model.classify(TEXT), "classif")


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_alone_generates_nothing(load: Callable[[str], Model], name: str) -> None:
    model = load(name)
    for call in (
        lambda: model.generate(TEXT),
        lambda: model.generate_ids([IDS]),
        lambda: model.translate(TEXT),
        lambda: list(model.iterate([TEXT])),
        lambda: list(model.stream(TEXT)),
        lambda: model.score([IDS], [IDS]),
    ):
        refused(call, "is an encoder alone, which generates no text")
    refused(lambda: model.prompt(IDS), "a prompt is for a decoder alone")
