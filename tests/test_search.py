"""csrc/search alone, against transformers' choices and against the definitions of its options."""

from __future__ import annotations

import ctypes
import json
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from search_cases import CASES, GOLDEN_CASES
from search_driver import START, Case, Search, build, logits_of, reference, whole

GOLDENS = Path(__file__).parent / "fixtures" / "search" / "generate.jsonl"
N_CHUNKS = 24
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("search"))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def check_equal(
    found: list[tuple[list[int], float]], expected: list[tuple[list[int], float | None]], name: str
) -> None:
    assert [ids for ids, _ in found] == [ids for ids, _ in expected], name
    for (_, score), (_, expected_score) in zip(found, expected, strict=True):
        if expected_score is not None:
            assert abs(score - expected_score) < TOLERANCE, name


# ---- The same choices as transformers ----------------------------------------------------------


def test_goldens(library: ctypes.CDLL) -> None:
    lines = [json.loads(line) for line in GOLDENS.read_text().splitlines()]
    assert [line["case"] for line in lines] == [str(case) for case in GOLDEN_CASES]
    for case, line in zip(GOLDEN_CASES, lines, strict=True):
        check_equal(whole(Search(library, case).run()), line["hypotheses"], str(case))


@pytest.mark.reference
@pytest.mark.parametrize("chunk", range(N_CHUNKS))
def test_transformers(library: ctypes.CDLL, chunk: int) -> None:
    pytest.importorskip("transformers")
    for case in CASES[chunk::N_CHUNKS]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = reference(case)
        check_equal(whole(Search(library, case).run()), expected, str(case))


def test_a_vocabulary_smaller_than_the_beams(library: ctypes.CDLL) -> None:
    """transformers would fill up with placeholders here; the real hypotheses are all different."""
    for early in (True, False, "never"):
        options = {"num_beams": 8, "num_return_sequences": 8, "early_stopping": early}
        found = whole(Search(library, Case(3, 0, options=options)).run())
        assert len(found) == 8
        assert len({tuple(ids) for ids, _ in found}) == 8
        one = Case(3, 0, options=options | {"max_new_tokens": 1})
        assert len(Search(library, one).run()) == 3


# ---- Scores, prefixes, records -----------------------------------------------------------------


@pytest.mark.parametrize("n_beams", [1, 4])
def test_log_probabilities_and_score(library: ctypes.CDLL, n_beams: int) -> None:
    case = Case(100, 3, (START, 5, 6, 7), options={"num_beams": n_beams, "length_penalty": 0.6})
    for hypothesis in Search(library, case).run():
        history = [START]
        [(ids, score)] = whole([hypothesis])
        assert ids[:3] == [5, 6, 7]
        for token, logprob in zip(ids, hypothesis.logprobs, strict=True):
            assert logprob == pytest.approx(log_softmax(logits_of(case, history))[token], abs=1e-5)
            history.append(token)
        generated = hypothesis.logprobs[3:]
        assert score == pytest.approx(sum(generated) / len(generated) ** 0.6, abs=1e-5)


@pytest.mark.parametrize("end", [(), (0,)], ids=["open", "ended"])
def test_score_only(library: ctypes.CDLL, end: tuple[int, ...]) -> None:
    prefix = (START, 8, 9, 2, *end)
    options = {"score_only": 1, "max_new_tokens": 0, "length_penalty": 2.0, "num_beams": 4}
    search = Search(library, Case(17, 2, prefix, options=options))
    [hypothesis] = search.run()
    expected = [
        log_softmax(logits_of(search.case, prefix[:i]))[prefix[i]] for i in range(1, len(prefix))
    ]
    assert hypothesis.tokens == [8, 9, 2]
    assert hypothesis.end_token == (0 if end else -1)
    assert hypothesis.finish_reason == "scored"
    np.testing.assert_allclose(hypothesis.logprobs, expected, atol=1e-5)
    assert hypothesis.score == pytest.approx(sum(expected) / len(expected) ** 2, abs=1e-5)
    assert search.result()[1] == len(prefix) - 1  # steps


def test_score_of_nothing(library: ctypes.CDLL) -> None:
    case = Case(17, 2, options={"score_only": 1, "max_new_tokens": 0})
    search = Search(library, case)
    assert search.n_live == 0
    [hypothesis] = search.run()
    assert (hypothesis.tokens, hypothesis.score, hypothesis.logprobs) == ([], 0.0, [])
    assert hypothesis.finish_reason == "scored"


@pytest.mark.parametrize("prefix", [(START,), (START, 3, 0)])
def test_no_new_tokens(library: ctypes.CDLL, prefix: tuple[int, ...]) -> None:
    options = {"max_new_tokens": 0, "num_beams": 4, "num_return_sequences": 4}
    [hypothesis] = Search(library, Case(17, 2, prefix, options=options)).run()
    assert hypothesis.tokens == list(prefix[1:])
    assert len(hypothesis.logprobs) == len(prefix) - 1
    assert (hypothesis.finish_reason, hypothesis.score) == ("length", 0.0)


@pytest.mark.parametrize("n_beams", [1, 4])
def test_alternatives_and_alignment(library: ctypes.CDLL, n_beams: int) -> None:
    options = {
        "num_beams": n_beams, "num_return_sequences": n_beams, "n_alternatives": 5,
        "return_alignment": 1, "suppress_tokens": [3], "eos_token_id": [0],
    }  # fmt: skip
    case = Case(100, 4, (START, 3, 5), options=options)
    for hypothesis in Search(library, case).run():
        history = [START]
        [(ids, _)] = whole([hypothesis])
        for i, token in enumerate(ids):
            logits = logits_of(case, history).copy()
            forced = i < 2
            logprobs = log_softmax(logits)
            if not forced:
                logits[3] = -np.inf
                # beam search masks log-probabilities, greedy search normalises what is masked
                logprobs[3] = -np.inf
                if n_beams == 1:
                    logprobs = log_softmax(logits)
            best = np.argsort(-logprobs, kind="stable")[:5]
            assert [id_ for id_, _ in hypothesis.alternatives[i]] == best.tolist()
            np.testing.assert_allclose(
                [p for _, p in hypothesis.alternatives[i]], logprobs[best], atol=1e-5
            )
            assert hypothesis.alignment is not None
            expected = sum(history) + np.arange(len(case.source))
            np.testing.assert_array_equal(hypothesis.alignment[i], expected)
            history.append(token)


def test_more_alternatives_than_tokens(library: ctypes.CDLL) -> None:
    case = Case(5, 1, options={"n_alternatives": 7, "suppress_tokens": [2]})
    for hypothesis in Search(library, case).run():
        for alternatives in hypothesis.alternatives:
            assert sorted(id_ for id_, _ in alternatives) == [-1, -1, -1, 0, 1, 3, 4]
            assert [p for _, p in alternatives[4:]] == [-np.inf] * 3


# ---- Ends --------------------------------------------------------------------------------------


def looping(period: int) -> object:
    """Logits that repeat the tokens 2, 3, ... 1 + period for ever, with few other continuations."""

    def model(case: Case, history: list[int]) -> np.ndarray:
        logits = np.full(case.vocab, -8.0, np.float32)
        logits[2 + (len(history) - 1) % period] = 5.0
        return logits

    return model


@pytest.mark.parametrize("period", [1, 2, 5, 16])
@pytest.mark.parametrize("times", [2, 4])
def test_repetition_stop(library: ctypes.CDLL, period: int, times: int) -> None:
    options = {"repetition_stop": times, "max_new_tokens": 100}
    [hypothesis] = Search(library, Case(100, 0, options=options)).run(looping(period))
    assert hypothesis.finish_reason == "repetition"
    assert hypothesis.tokens == [2 + i for i in range(period)] * times


def test_longer_loops_and_forced_tokens_do_not_stop(library: ctypes.CDLL) -> None:
    options = {"repetition_stop": 2, "max_new_tokens": 60}
    [hypothesis] = Search(library, Case(100, 0, options=options)).run(looping(17))
    assert (hypothesis.finish_reason, len(hypothesis.tokens)) == ("length", 60)
    case = Case(100, 0, (START, 2, 2, 2, 2, 2, 2), options=options)
    [hypothesis] = Search(library, case).run(looping(17))
    assert hypothesis.finish_reason == "length"


def test_looping_beams_end_like_others(library: ctypes.CDLL) -> None:
    options = {
        "repetition_stop": 3, "max_new_tokens": 100, "num_beams": 4, "num_return_sequences": 4,
        "suppress_tokens": [0],
    }  # fmt: skip
    search = Search(library, Case(100, 0, options=options))
    hypotheses = search.run(looping(2))
    assert hypotheses[0].tokens == [2, 3] * 3
    assert {h.finish_reason for h in hypotheses} == {"repetition"}
    assert search.result()[1] < 30  # no beam could loop on to the limit
    assert hypotheses[0].score == pytest.approx(np.mean(hypotheses[0].logprobs), abs=1e-6)


@pytest.mark.parametrize("n_beams", [1, 4])
def test_finish_reasons_and_steps(library: ctypes.CDLL, n_beams: int) -> None:
    def never_ends(case: Case, history: list[int]) -> np.ndarray:
        logits = logits_of(case, history).copy()
        logits[0] = -np.inf
        return logits

    case = Case(17, 1, (START, 2), options={"num_beams": n_beams, "max_new_tokens": 7})
    search = Search(library, case)
    [hypothesis] = search.run(never_ends)
    assert hypothesis.finish_reason == "length"
    assert len(hypothesis.tokens) == 8
    assert search.result()[1] == 8
    [hypothesis] = Search(library, Case(17, 1, options={"forced_bos_token_id": 0})).run()
    assert (hypothesis.tokens, hypothesis.end_token) == ([], 0)
    assert (hypothesis.finish_reason, hypothesis.score) == ("eos", 0.0)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"do_sample": 1}], ids=str)
def test_no_continuation_ends_the_search(
    library: ctypes.CDLL, value: float, options: dict[str, int]
) -> None:
    """After two good steps every logit is broken: the search ends with what it has."""

    def model(case: Case, history: list[int]) -> np.ndarray:
        logits = logits_of(case, history).copy()
        logits[0] = -np.inf
        return logits if len(history) < 3 else np.full(case.vocab, value, np.float32)

    search = Search(library, Case(17, 1, options={"max_new_tokens": 9, **options}))
    [hypothesis] = search.run(model)
    assert (hypothesis.finish_reason, len(hypothesis.tokens)) == ("length", 2)
    assert search.result()[1] == 3


def test_some_nan_is_ruled_out(library: ctypes.CDLL) -> None:
    def broken(case: Case, history: list[int]) -> np.ndarray:
        logits = logits_of(case, history).copy()
        logits[5:9] = np.nan
        return logits

    def masked(case: Case, history: list[int]) -> np.ndarray:
        logits = logits_of(case, history).copy()
        logits[5:9] = -np.inf
        return logits

    for n_beams in (1, 4):
        case = Case(17, 1, options={"num_beams": n_beams})
        assert whole(Search(library, case).run(broken)) == whole(Search(library, case).run(masked))


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 4, "num_return_sequences": 3}, {"do_sample": 1, "num_return_sequences": 3}],
    ids=str,
)
def test_progress_and_cancel(library: ctypes.CDLL, options: dict[str, int]) -> None:
    case = Case(1000, 5, (START, 4), options={**options, "min_new_tokens": 9, "seed": 3})
    search = Search(library, case)
    before: list[int] = []
    for _ in range(6):
        search.step()
        agreed = search.progress()
        assert agreed[: len(before)] == before  # what was said is never taken back
        shared = search.histories[0]
        for history in search.histories:  # of the tokens fed so far: all but the newest
            while shared != history[: len(shared)]:
                shared = shared[:-1]
        assert agreed[: len(shared) - 1] == shared[1:]
        before = agreed
    search.cancel()
    assert search.n_live == 0
    hypotheses = search.result()[0]
    assert len(hypotheses) == options.get("num_return_sequences", 1)
    for hypothesis in hypotheses:
        assert hypothesis.finish_reason == "cancelled"
        assert len(hypothesis.tokens) == 6  # one of the prefix, five generated
        assert hypothesis.tokens[: len(before)] == before
        assert hypothesis.score == pytest.approx(np.mean(hypothesis.logprobs[1:]), abs=1e-5)


def test_progress_of_greedy_search_is_everything(library: ctypes.CDLL) -> None:
    search = Search(library, Case(100, 5, (START, 4)))
    while search.n_live:
        search.step()
    assert search.progress() == search.result()[0][0].tokens


# ---- Sampling ----------------------------------------------------------------------------------


def sample(
    library: ctypes.CDLL, case_seed: int, n: int, vocab: int = 17, **options: object
) -> list[tuple[int, ...]]:
    case = Case(
        vocab, case_seed,
        options={"do_sample": 1, "top_k": 0, "num_return_sequences": n, "max_new_tokens": 1}
        | options,
    )  # fmt: skip
    return [tuple(ids) for ids, _ in whole(Search(library, case).run())]


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Cells that expect less than five count as one; divided by the degrees of freedom."""
    large = expected >= 5
    c = [*counts[large], counts[~large].sum()]
    e = [*expected[large], expected[~large].sum()]
    terms = [(x - y) ** 2 / y for x, y in zip(c, e, strict=True) if y > 0]
    return float(sum(terms)) / max(len(terms) - 1, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_samples_have_the_frequencies_of_the_model(
    library: ctypes.CDLL, temperature: float
) -> None:
    n = 0
    counts = np.zeros(17)
    for seed in range(20):
        for (token,) in sample(library, 1, 1000, seed=seed, temperature=temperature):
            counts[token] += 1
            n += 1
    p = np.exp(log_softmax(logits_of(Case(17, 1), [START]) / temperature))
    assert chi_square(counts, n * p) < 2.0  # about 1 if right; the seeds are fixed
    assert chi_square(counts, n * np.roll(p, 1)) > 10.0  # and the test can tell


def test_samples_depend_on_seed_and_place_only(library: ctypes.CDLL) -> None:
    few = sample(library, 2, 3, vocab=1000, seed=11, max_new_tokens=8)
    many = sample(library, 2, 20, vocab=1000, seed=11, max_new_tokens=8)
    assert set(few) <= set(many)
    assert len(set(many)) > 10
    assert sample(library, 2, 3, vocab=1000, seed=11, max_new_tokens=8) == few
    assert sample(library, 2, 3, vocab=1000, seed=12, max_new_tokens=8) != few


def test_samples_are_drawn_by_inverse_distribution(library: ctypes.CDLL) -> None:
    """Hypothesis i draws step t with its own number, whoever else has ended."""

    def draw(case: Case, stream: int, seed: int) -> list[int]:
        history = list(case.prefix)
        while len(history) < len(case.prefix) + 12 and history[-1] != 0:
            p = np.exp(log_softmax(logits_of(case, history)))
            position = len(history) - 1
            u = library.s2s_sample_uniform(ctypes.c_uint64(seed), position, stream, 0)
            history.append(int(np.searchsorted(np.cumsum(p) / p.sum(), u, side="right")))
        return history[1:]

    options = {"do_sample": 1, "top_k": 0, "num_return_sequences": 6, "max_new_tokens": 12}
    for seed in range(20):
        case = Case(17, seed % 5, (START, 3), options={**options, "seed": seed})
        expected = sorted(draw(case, stream, seed) for stream in range(6))
        assert sorted(ids for ids, _ in whole(Search(library, case).run())) == expected


def test_beams_draw_without_replacement(library: ctypes.CDLL) -> None:
    """Two beams that end at once are the first two tokens drawn: p_i p_j / (1 - p_i)."""
    n = 3000
    found: Counter[frozenset[int]] = Counter()
    for seed in range(n):
        options = {
            "num_beams": 2, "num_return_sequences": 2, "do_sample": 1, "top_k": 0, "seed": seed,
            "max_new_tokens": 1,
        }  # fmt: skip
        pair = whole(Search(library, Case(5, 3, options=options)).run())
        found[frozenset(ids[0] for ids, _ in pair)] += 1
    p = np.exp(log_softmax(logits_of(Case(5, 3), [START])))
    pairs = [(i, j) for i in range(5) for j in range(i)]
    expected = np.array([p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in pairs])
    counts = np.array([found[frozenset(pair)] for pair in pairs])
    assert counts.sum() == n
    assert chi_square(counts, n * expected) < 2.0


def survivors(library: ctypes.CDLL, logits: np.ndarray, options: dict[str, object]) -> set[int]:
    """The tokens that the warpers leave, and that their log-probabilities sum to one."""
    beams = {"num_return_sequences": 1, "max_new_tokens": 1, "do_sample": 1, "top_k": 0}
    case = Case(len(logits), 0, options={**beams, "n_alternatives": len(logits), **options})
    hypotheses = Search(library, case).run(lambda *_: logits)
    alternatives = [(id_, p) for id_, p in hypotheses[0].alternatives[0] if id_ >= 0]
    if case.options.get("num_beams", 1) == 1:
        assert sum(np.exp(p) for _, p in alternatives) == pytest.approx(1.0, abs=1e-5)
    return {id_ for id_, _ in alternatives}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 1}, {1, 2}),  # equal to the last one kept: kept
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.0}, {1}),  # of equals the smaller id
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 2}),
        ({"top_p": 0.85}, {0, 1, 2}),
        ({"min_p": 1.0}, {1, 2}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"top_k": 3, "top_p": 0.85, "min_p": 0.3}, {1, 2}),
        ({"top_p": 0.0, "num_beams": 2}, {1, 2}),  # one beside the end token
        ({"top_k": 1, "num_beams": 2}, {1, 2}),
        ({"top_k": 1, "num_beams": 2, "eos_token_id": [0, 3]}, {0, 1, 2}),
        ({"top_p": 0.0, "num_beams": 2, "eos_token_id": [0, 3]}, {0, 1, 2}),
        ({"min_p": 1.0, "num_beams": 2, "eos_token_id": [0, 3]}, {0, 1, 2}),
    ],
    ids=str,
)
def test_warpers(library: ctypes.CDLL, options: dict[str, object], expected: set[int]) -> None:
    probabilities = np.array([0.1, 0.4, 0.4, 0.06, 0.04])
    assert survivors(library, np.log(probabilities).astype(np.float32), options) == expected


@pytest.mark.reference
def test_warpers_of_transformers(library: ctypes.CDLL) -> None:
    """The same tokens survive; which of equal ones, torch's sort leaves open."""
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as t

    random = np.random.default_rng(1)
    for trial in range(400):
        vocab = int(random.choice([5, 17, 100, 1000]))
        logits = random.normal(0, 3, vocab).astype(np.float32)
        if trial % 2:
            logits = np.round(logits)
        n_beams = int(random.choice([1, 3]))
        keep = 2 if n_beams > 1 else 1
        options: dict[str, object] = {"num_beams": n_beams}
        scores = torch.from_numpy(logits)[None]
        if n_beams > 1:
            scores = scores.log_softmax(-1)
        chosen = random.random(4) < 0.5
        if chosen[0]:
            options["temperature"] = float(random.choice([0.5, 2.0]))
            scores = t.TemperatureLogitsWarper(options["temperature"])(None, scores)
        if chosen[1]:
            options["top_k"] = int(random.integers(1, 60))
            scores = t.TopKLogitsWarper(options["top_k"], min_tokens_to_keep=keep)(None, scores)
        if chosen[2]:
            options["top_p"] = float(random.random())
            scores = t.TopPLogitsWarper(options["top_p"], min_tokens_to_keep=keep)(None, scores)
        if chosen[3]:
            options["min_p"] = float(random.random())
            scores = t.MinPLogitsWarper(options["min_p"], min_tokens_to_keep=keep)(None, scores)
        expected = torch.nonzero(scores[0] > -torch.inf)[:, 0].tolist()
        found = sorted(survivors(library, logits, options))
        assert sorted(logits[found]) == sorted(logits[expected]), (trial, options)
        if trial % 2 == 0:
            assert found == expected, (trial, options)


def test_sampled_log_probabilities(library: ctypes.CDLL) -> None:
    options = {"do_sample": 1, "temperature": 0.7, "top_k": 4, "seed": 5, "num_return_sequences": 4}
    case = Case(100, 1, (START, 9), options=options)
    for hypothesis in Search(library, case).run():
        [(ids, _)] = whole([hypothesis])
        history = [START, 9]
        for token, logprob in zip(ids[1:], hypothesis.logprobs[1:], strict=True):
            logits = logits_of(case, history) / np.float32(0.7)
            logits = np.where(logits < np.sort(logits)[-4], -np.inf, logits)
            assert logprob == pytest.approx(log_softmax(logits)[token], abs=1e-5)
            history.append(token)


def test_wrong_options_are_refused(library: ctypes.CDLL) -> None:
    with pytest.raises(ValueError, match="num_beams must be between 1 and 1024, found 0"):
        Search(library, Case(17, 0, options={"num_beams": 0}))
