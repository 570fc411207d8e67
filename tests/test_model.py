"""The facade as a user meets it: results, order, limits, streams, scores, traces, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_files import SHORT_TEXTS as TEXTS
from s2s_infer import (
    GenerationResult,
    InputTooLongError,
    Model,
    ModelError,
    OptionError,
)

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINT = FIXTURES / "checkpoints" / "marian-tiny"  # random weights, real tokenizer


def same(a: GenerationResult, b: GenerationResult) -> bool:
    return a.to_dict() == b.to_dict()


# ---- Results ----


def test_translate_gives_a_string_for_a_string_and_a_list_for_a_list(text_model: Model) -> None:
    one = text_model.translate(TEXTS[0], to="en", max_new_tokens=8)
    several = text_model.translate(TEXTS, to="en", max_new_tokens=8)
    assert isinstance(one, str) and one
    assert several[0] == one and len(several) == len(TEXTS)
    assert text_model.translate((text for text in TEXTS), to="en", max_new_tokens=8) == several
    assert text_model.translate([]) == []


def test_result_fields(text_model: Model) -> None:
    result = text_model.generate(
        ["hello"],
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=6,
        forced_eos_token_id=None,
        return_alignment=True,
        return_alternatives=4,
    )[0]
    scores = [h.score for h in result.hypotheses]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert result.text == result.hypotheses[0].text and result.score == scores[0]
    assert result.input_ids[-1] == 0 and not result.input_truncated and result.seed is None
    for hypothesis in result.hypotheses:
        n = len(hypothesis.token_logprobs)
        assert n == len(hypothesis.token_ids) + (hypothesis.end_token_id is not None)
        assert hypothesis.finish_reason == ("length" if hypothesis.end_token_id is None else "eos")
        assert hypothesis.tokens is not None and len(hypothesis.tokens) == len(hypothesis.token_ids)
        assert hypothesis.text == text_model.tokenizer.decode(hypothesis.token_ids)
        assert hypothesis.score == pytest.approx(sum(hypothesis.token_logprobs) / n, abs=1e-5)
        assert hypothesis.alignment is not None
        assert hypothesis.alignment.shape == (n, len(result.input_ids))
        assert np.allclose(hypothesis.alignment.sum(axis=1), 1, atol=1e-5)
        assert hypothesis.alternatives is not None and len(hypothesis.alternatives) == n
        for token, step in zip(hypothesis.token_ids, hypothesis.alternatives, strict=False):
            logprobs = [alternative.logprob for alternative in step]
            assert logprobs == sorted(logprobs, reverse=True) and len(step) == 4
            for alternative in step:
                assert alternative.token == text_model.tokenizer.tokens([alternative.token_id])[0]
            if token == step[0].token_id:
                assert step[0].logprob in hypothesis.token_logprobs


def test_results_are_those_of_single_calls_in_input_order(text_model: Model) -> None:
    together = text_model.generate(TEXTS, num_beams=3, max_new_tokens=12)
    for text, result in zip(TEXTS, together, strict=True):
        assert same(result, text_model.generate([text], num_beams=3, max_new_tokens=12)[0])


def test_blank_texts_give_empty_results(text_model: Model) -> None:
    for result in text_model.generate(["", " \t\u3000"], num_beams=2, num_return_sequences=2):
        assert len(result.hypotheses) == 2
        assert (result.text, result.token_ids, result.tokens) == ("", [], [])
        assert (result.score, result.finish_reason, result.input_ids) == (0.0, "eos", [])


def test_target_prefix_begins_the_output(text_model: Model) -> None:
    result = text_model.generate(["hello"], target_prefix="天气", max_new_tokens=4)[0]
    assert result.text is not None and result.text.startswith("天气")
    prefix = text_model.tokenizer.encode_target("天气")
    assert result.token_ids[: len(prefix)] == prefix
    assert len(result.token_logprobs) <= len(prefix) + 4
    first, second = text_model.generate(["a", "b"], target_prefix=["天", "好"], max_new_tokens=2)
    assert first.text is not None and first.text.startswith("天")
    assert second.text is not None and second.text.startswith("好")
    with pytest.raises(OptionError, match="target_prefix has 1 entries for 2 texts"):
        text_model.generate(["a", "b"], target_prefix=["天"])


def test_target_language(text_model: Model) -> None:
    assert sorted(text_model.languages) == ["en", "zh"]
    languages = text_model.special_tokens.languages
    (chinese,) = text_model.generate(["天气"], max_new_tokens=2)
    (english,) = text_model.generate(["good"], max_new_tokens=2)
    assert chinese.input_ids[0] == languages["en"] and english.input_ids[0] == languages["zh"]
    (given,) = text_model.generate(["天气"], to="zh", max_new_tokens=2)
    assert given.input_ids == [languages["zh"], *chinese.input_ids[1:]]
    with pytest.raises(OptionError, match=r"unknown target language 'de'.*en, zh"):
        text_model.generate(["天气"], to="de")


# ---- Limits ----


def test_default_limit_follows_the_source_and_is_told(tiny: Model) -> None:
    source = [3, 4, 0]
    (result,) = tiny.generate_ids([source], eos_token_id=48, suppress_tokens=[48])
    limit = min(4 * len(source) + 64, tiny.config.decoder.max_positions - 1)
    assert result.finish_reason in ("length", "repetition")
    if result.finish_reason == "length":
        assert len(result.token_ids) == limit


def test_repetition_stop_is_on_by_default_and_off_with_a_limit(tiny: Model) -> None:
    only = [token for token in range(50) if token not in (5, 6)]
    looping: dict[str, Any] = {"suppress_tokens": only}
    (result,) = tiny.generate_ids([[3, 4, 0]], **looping, repetition_stop=2)
    assert result.finish_reason == "repetition"
    (result,) = tiny.generate_ids([[3, 4, 0]], **looping, max_new_tokens=40)
    assert result.finish_reason == "length" and len(result.token_ids) == 40


def test_explicit_limits(tiny: Model) -> None:
    options: dict[str, Any] = {"suppress_tokens": [0]}
    (result,) = tiny.generate_ids([[3, 4, 0]], max_new_tokens=5, **options)
    assert len(result.token_ids) == 5 and result.finish_reason == "length"
    (result,) = tiny.generate_ids([[3, 4, 0]], max_length=5, prefix=[7], **options)
    assert len(result.token_ids) == 4 and result.token_ids[0] == 7
    (result,) = tiny.generate_ids([[3, 4, 0]], max_new_tokens=100_000, **options)
    assert len(result.token_ids) == tiny.config.decoder.max_positions  # the last is never fed
    with pytest.raises(OptionError, match=r"max_length=3 leaves no token .* 3 given"):
        tiny.generate_ids([[3, 4, 0]], max_length=3, prefix=[7, 8])


def test_end_forced_by_the_limit_is_told_as_length(tiny: Model) -> None:
    (result,) = tiny.generate_ids(
        [[3, 4, 0]], max_new_tokens=5, min_new_tokens=4, forced_eos_token_id=0
    )
    assert result.end_token_id == 0 and len(result.token_ids) == 4
    assert result.finish_reason == "length"


def test_too_long_input_names_both_numbers_or_is_cut_and_told(tiny: Model) -> None:
    limit = tiny.config.encoder.max_positions
    long = [3] * limit + [0]
    with pytest.raises(InputTooLongError, match=rf"sources\[1\] has {limit + 1} tokens.* {limit} "):
        tiny.generate_ids([[3, 0], long])
    (result,) = tiny.generate_ids([long], truncate=True, max_new_tokens=3)
    assert result.input_truncated
    assert result.input_ids == [3] * (limit - 1) + [0]
    fits = long[1:]
    (exact,) = tiny.generate_ids([fits], truncate=True, max_new_tokens=3)
    assert not exact.input_truncated and exact.token_ids == result.token_ids


def test_too_long_prefix(tiny: Model) -> None:
    limit = tiny.config.decoder.max_positions
    with pytest.raises(InputTooLongError, match=f"prefix .* {limit + 1} tok.* {limit} pos"):
        tiny.generate_ids([[3, 0]], prefix=[5] * limit)
    (result,) = tiny.generate_ids([[3, 0]], prefix=[5] * (limit - 1))
    assert len(result.token_logprobs) == limit


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_beams": 2, "do_sample": True}])
def test_renormalized_probabilities_sum_to_one(tiny: Model, options: dict[str, Any]) -> None:
    sums = []
    for renormalize in (False, True):
        (result,) = tiny.generate_ids(
            [[3, 4, 0]],
            suppress_tokens=list(range(5, 30)),
            renormalize_logits=renormalize,
            return_alternatives=50,
            max_new_tokens=4,
            top_k=0,
            seed=1,
            **options,
        )
        assert result.alternatives is not None
        sums += [
            sum(np.exp(alternative.logprob) for alternative in step) for step in result.alternatives
        ]
    plain, renormalized = sums[: len(sums) // 2], sums[len(sums) // 2 :]
    assert max(plain) < 0.999
    assert renormalized == pytest.approx([1.0] * len(renormalized), abs=1e-5)


# ---- Sampling ----


def test_sampling_repeats_with_a_seed_whatever_the_batch(text_model: Model) -> None:
    options: dict[str, Any] = {"do_sample": True, "num_beams": 1, "max_new_tokens": 10}
    together = text_model.generate(TEXTS, seed=5, num_return_sequences=3, **options)
    for text, result in zip(TEXTS, together, strict=True):
        alone = text_model.generate([text], seed=5, num_return_sequences=3, **options)[0]
        assert same(result, alone)
    assert len({h.text for h in together[0].hypotheses}) > 1


def test_a_fresh_seed_is_named_and_gives_the_same_again(text_model: Model) -> None:
    options: dict[str, Any] = {"do_sample": True, "num_beams": 1, "max_new_tokens": 10}
    first, second = (text_model.generate(["good"], **options)[0] for _ in range(2))
    assert first.seed is not None and first.seed != second.seed
    assert same(first, text_model.generate(["good"], seed=first.seed, **options)[0])


# ---- Scores, states, traces ----


def test_score_of_an_output_is_that_of_the_search(text_model: Model) -> None:
    results = text_model.generate(TEXTS, num_beams=1, max_new_tokens=40, bad_words_ids=None)
    pairs = [(t, r) for t, r in zip(TEXTS, results, strict=True) if t.strip()]
    sources = [r.input_ids for _, r in pairs]
    scores = text_model.score(sources, [r.token_ids for _, r in pairs])
    assert len(scores) == len(pairs)
    for (_, result), score in zip(pairs, scores, strict=True):
        n = len(result.token_ids)
        assert score.token_ids == result.token_ids
        assert len(score.token_logprobs) == n + 1
        assert score.token_logprobs[:n] == result.token_logprobs[:n]  # to the last bit
        assert score.logprob == pytest.approx(sum(score.token_logprobs))
        assert score.score == pytest.approx(score.logprob / (n + 1))
        assert score.perplexity == pytest.approx(np.exp(-score.logprob / (n + 1)))


def test_score_of_texts_and_length_penalty(text_model: Model) -> None:
    (plain,) = text_model.score("good day", "天气", to="zh", length_penalty=0)
    assert plain.score == plain.logprob < 0
    assert plain.tokens == text_model.tokenizer.tokens(plain.token_ids)
    (empty,) = text_model.score(["good day"], [""])
    assert empty.token_ids == [] and len(empty.token_logprobs) == 1
    with pytest.raises(OptionError, match="2 sources but 1 targets"):
        text_model.score(["a", "b"], ["c"])
    with pytest.raises(OptionError, match=r"sources\[0\] is empty"):
        text_model.score([[]], [[3]])


def test_scores_use_every_position_of_the_decoder(tiny: Model) -> None:
    limit = tiny.config.decoder.max_positions
    (score,) = tiny.score([[3, 0]], [[5] * (limit - 1)])
    assert len(score.token_logprobs) == limit
    with pytest.raises(InputTooLongError, match=f"{limit + 1} tokens.* {limit} positions"):
        tiny.score([[3, 0]], [[5] * limit])


def test_encode_gives_states_that_do_not_depend_on_the_batch(text_model: Model) -> None:
    texts = TEXTS * 10
    together = text_model.encode(texts)
    for text, states in zip(TEXTS, together, strict=False):
        (alone,) = text_model.encode([text])
        assert alone.dtype == np.float32
        assert alone.shape[1] == text_model.config.d_model
        assert np.array_equal(alone, states)
    assert [s.shape for s in text_model.encode_ids([[], [3, 0], []])] == [
        (0, text_model.config.d_model),
        (2, text_model.config.d_model),
        (0, text_model.config.d_model),
    ]
    assert text_model.encode([]) == []


def test_trace_shows_what_the_model_computed(text_model: Model) -> None:
    source = text_model.generate(["good day"], max_new_tokens=1)[0].input_ids
    n, d = len(source), text_model.config.d_model
    trace = text_model.trace("good day", max_new_tokens=7, bad_words_ids=None)
    (greedy,) = text_model.generate(["good day"], num_beams=1, max_new_tokens=7, bad_words_ids=None)
    n_steps = len(greedy.token_logprobs)
    assert trace["source.ids"].tolist() == source
    assert trace["output.ids"].tolist()[: len(greedy.token_ids)] == greedy.token_ids
    assert trace["target.ids"][0] == text_model.special_tokens.start
    assert trace["target.ids"].tolist()[1:] == trace["output.ids"].tolist()[: n_steps - 1]
    assert trace["encoder.output"].shape == (n, d)
    assert np.array_equal(trace["encoder.output"], text_model.encode(["good day"])[0])
    heads = text_model.config.encoder.n_heads
    assert trace["encoder.0.self_attn.weights"].shape == (heads, n, n)
    decoder_heads = text_model.config.decoder.n_heads
    for layer in range(text_model.config.decoder.n_layers):
        weights = trace[f"decoder.{layer}.cross_attn.weights"]
        assert weights.shape == (n_steps, decoder_heads, n)
        assert np.allclose(weights.sum(axis=2), 1, atol=1e-5)
        own = trace[f"decoder.{layer}.self_attn.weights"]
        assert own.shape == (n_steps, decoder_heads, n_steps)
        assert np.allclose(own.sum(axis=2), 1, atol=1e-5)
        assert not np.triu(own[:, 0], 1).any()  # nothing looks ahead
    logits = trace["decoder.logits"]
    assert logits.shape == (n_steps, text_model.config.vocab_size)
    logprobs = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    chosen = logprobs[np.arange(n_steps), trace["output.ids"][:n_steps]]
    assert np.allclose(chosen[:-1], trace["output.logprobs"][: n_steps - 1], atol=1e-5)


def test_trace_of_a_forced_target(text_model: Model) -> None:
    target = text_model.tokenizer.encode_target("天气好")
    trace = text_model.trace("good day", "天气好")
    (score,) = text_model.score(["good day"], ["天气好"])
    assert trace["output.ids"].tolist() == [*target, 0]
    assert trace["output.logprobs"].tolist() == score.token_logprobs
    assert trace["decoder.logits"].shape[0] == len(target) + 1
    by_ids = text_model.trace(trace["source.ids"].tolist(), target)
    assert all(np.array_equal(trace[name], by_ids[name]) for name in trace)
    with pytest.raises(OptionError, match="num_beams must be 1"):
        text_model.trace("good day", num_beams=2)


# ---- Errors ----


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.generate(3), "texts must be a list, not int"),
        (lambda m: m.generate(b"x"), "texts must be a list, not bytes"),
        (lambda m: m.generate(["a", None]), r"texts\[1\] must be a string, not NoneType"),
        (lambda m: m.generate(["a"], target_prefix=[3]), "target_prefix must be a string, not int"),
        (lambda m: m.generate(["a"], num_beam=2), "did you mean 'num_beams'"),
        (lambda m: m.generate(["a\ud800"]), "surrogate"),
        (lambda m: m.generate_ids([3, 4, 0]), "list of lists of token ids"),
        (lambda m: m.generate_ids([[3, 99]]), r"sources\[0\] holds the token id 99.* 0 to 98"),
        (lambda m: m.generate_ids([[3, -1]]), "token id -1"),
        (lambda m: m.generate_ids([[3, 1.5]]), "holds 1.5"),
        (lambda m: m.generate_ids([[3, 2**70]]), "token id 1180591620717411303424"),
        (lambda m: m.generate_ids(["ab"]), r"sources\[0\] must be a list of token ids, not str"),
        (lambda m: m.generate_ids([[3, 0]], prefix=[99]), "prefix holds the token id 99"),
        (lambda m: m.generate_ids([[3, 0]], prefix=[[1], [2]]), "prefix has 2 rows for 1"),
        (lambda m: m.generate_ids([[3, 0]], eos_token_id=99), "eos_token_id"),
        (lambda m: m.generate_ids([[3, 0]], bad_words_ids=[[99]]), "bad_words_ids"),
        (lambda m: m.generate_ids([[3, 0]], decoder_start_token_id=99), "99"),
        (lambda m: m.score([[3, 0]], [[99]]), r"targets\[0\] holds the token id 99"),
        (lambda m: m.encode_ids([[99]]), r"sources\[0\] holds the token id 99"),
        (lambda m: m.iterate(["a"], window=0), "window must be an integer of at least 1, not 0"),
        (lambda m: m.iterate(["a"], window="3"), "window must be an integer of at least 1"),
        (lambda m: m.translate("a", to=["en"]), r"to must be the code of a language, not \['en'\]"),
        (lambda m: m.generate(["a"], target_prefix=3), "target_prefix must be a list, not int"),
        (lambda m: m.generate_ids([[3, 0]], prefix=5), "prefix must be a list, not int"),
        (lambda m: m.generate_ids([[np.array([3, 0])]]), "must be a list of token ids, but holds"),
        (lambda m: m.iterate("abc"), "texts must be several texts, not str"),
        (lambda m: m.iterate(3), "texts must be several texts, not int"),
        (lambda m: list(m.iterate([[3, 0]], to="en")), "to='en' cannot apply"),
        (lambda m: m.trace([]), "nothing to trace"),
    ],
)
def test_wrong_arguments(text_model: Model, call: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        call(text_model)


def test_results_with_arrays_can_be_compared(tiny: Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 3, "return_alignment": True}
    first, second = tiny.generate_ids([[3, 4, 0]] * 2, **options)
    (other,) = tiny.generate_ids([[3, 5, 0]], **options)
    assert first == second
    assert first != other


def test_ids_of_numpy_and_prefixes_for_each_source(tiny: Model) -> None:
    sources = np.array([[3, 4, 0], [5, 6, 0]])
    plain = tiny.generate_ids([[3, 4, 0], [5, 6, 0]], prefix=[[7], [8, 9]], max_new_tokens=4)
    arrays = tiny.generate_ids(sources, prefix=[np.array([7]), np.array([8, 9])], max_new_tokens=4)
    assert all(map(same, plain, arrays))
    assert plain[0].token_ids[:1] == [7] and plain[1].token_ids[:2] == [8, 9]


def test_model_without_tokenizer_takes_ids_and_says_what_is_missing(tiny: Model) -> None:
    (result,) = tiny.generate_ids([[3, 4, 0]], max_new_tokens=4, return_alternatives=2)
    assert result.text is None and result.tokens is None
    for call in (
        lambda: tiny.translate("hello"),
        lambda: tiny.translate(""),
        lambda: tiny.encode(["hello"]),
        lambda: tiny.tokenizer,
    ):
        with pytest.raises(ModelError, match=r"no source\.spm and no tokenizer\.json"):
            call()
