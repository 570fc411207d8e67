"""encode, fill_mask and classify: the facade, the command line, and what they refuse."""

from __future__ import annotations

import json
import math
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity_encoders as parity
import s2s_infer
from checkpoint_files import load_and_build, raw_file, read_raw, refusal
from s2s_infer import Model, OptionError, UnsupportedError
from s2s_infer.formats.native import save_native
from s2s_infer.loaders import load_checkpoint
from test_cli import error, output

MARIAN = Path(__file__).parent / "fixtures" / "checkpoints" / "marian-tiny"
VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
    *".,?!",
]
TEXTS = ["abc de", "x [MASK] y.", "", "[MASK] and [MASK]", "the quick brown fox"]


def directory(path: Path, name: str, **config: Any) -> Path:
    """A small checkpoint with a vocab.txt of letters."""
    shutil.copytree(parity.FIXTURES / name, path)
    (path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB), encoding="utf-8")
    if config:
        file = path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | config))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {
        kind: directory(root / kind, f"Bert{name}-24")
        for kind, name in (
            ("base", "Model"),
            ("masked", "ForMaskedLM"),
            ("classifier", "ForSequenceClassification"),
        )
    }


@pytest.fixture(scope="module")
def masked(folders: dict[str, Path]) -> Iterator[Model]:
    with s2s_infer.load(folders["masked"]) as model:
        yield model


@pytest.fixture(scope="module")
def classifier(folders: dict[str, Path]) -> Iterator[Model]:
    with s2s_infer.load(folders["classifier"]) as model:
        yield model


# ---- encode ----


def test_pooling_is_what_it_says(folders: dict[str, Path]) -> None:
    with s2s_infer.load(folders["base"]) as model:
        states = model.encode(TEXTS)
        assert [len(s) for s in states] == [7, 6, 2, 7, 18]
        cls = model.encode(TEXTS, pooling="cls")
        mean = model.encode(TEXTS, pooling="mean")
        unit = model.encode(TEXTS, pooling="mean", normalize=True)
        pooled = model.encode(TEXTS, pooling="pooler")
        for i, array in enumerate(states):
            assert array.dtype == np.float32
            assert np.array_equal(cls[i], array[0])
            np.testing.assert_allclose(mean[i], array.mean(0), rtol=0, atol=1e-6)
            np.testing.assert_allclose(np.linalg.norm(unit[i]), 1, rtol=1e-6)
            np.testing.assert_allclose(unit[i] * np.linalg.norm(mean[i]), mean[i], atol=1e-6)
            alone = model.encode(TEXTS[i])
            assert alone.tobytes() == array.tobytes()
            for pooling, vectors in (("cls", cls), ("mean", mean), ("pooler", pooled)):
                vector = model.encode(TEXTS[i], pooling=pooling)
                assert vector.shape == (24,) and vector.tobytes() == vectors[i].tobytes()
        assert np.abs(pooled).max() <= 1  # tanh
        assert model.encode([], pooling="mean").shape == (0, 24)


def test_pairs_have_token_types(folders: dict[str, Path]) -> None:
    with s2s_infer.load(folders["base"]) as model:
        ids = model.tokenizer.encode_source
        joined = [*ids("ab"), *ids("cd")[1:]]
        one, two = model.encode(("ab", "cd")), model.encode_ids([joined])[0]
        assert one.shape == two.shape and not np.allclose(one, two)  # types 0 0 0 0 1 1 1
        assert model.encode([("ab", "cd"), "ab"])[0].tobytes() == one.tobytes()
        long = ("a " * 60, "b")
        with pytest.raises(s2s_infer.InputTooLongError, match=r"texts\[0\] has 64 tokens.* 40 pos"):
            model.encode([long])
        assert model.encode(long, truncate=True).shape == (40, 24)


def test_trace_of_an_encoder_alone(folders: dict[str, Path]) -> None:
    with s2s_infer.load(folders["base"]) as model:
        trace = model.trace("abc")
        assert trace["source.tokens"].tolist() == ["[CLS]", "a", "##b", "##c", "[SEP]"]
        n = len(trace["source.ids"])
        assert trace["encoder.1.self_attn.weights"].shape == (3, n, n)
        assert np.array_equal(trace["encoder.output"], model.encode("abc"))
        with pytest.raises(OptionError, match="takes a text only"):
            model.trace("abc", "def")


def test_encoder_decoder_models_encode_too() -> None:
    with s2s_infer.load(MARIAN) as model:
        states = model.encode(["good day", "天"])
        vectors = model.encode(["good day", "天"], pooling="mean")
        np.testing.assert_allclose(vectors[1], states[1].mean(0), atol=1e-6)
        with pytest.raises(UnsupportedError, match=r"no classification token.*pooling='mean'"):
            model.encode(["good day"], pooling="cls")
        with pytest.raises(UnsupportedError, match=r"\(marian\) has no pooler: open a checkpoint"):
            model.encode(["good day"], pooling="pooler")
        with pytest.raises(UnsupportedError, match="one text at a time"):
            model.encode(("good", "day"), pooling="mean")


# ---- fill_mask ----


def test_candidates_are_the_most_probable_tokens(masked: Model) -> None:
    (candidates,) = masked.fill_mask(TEXTS[1], top_k=61)
    assert len(candidates) == 61
    assert math.isclose(sum(c.probability for c in candidates), 1, rel_tol=1e-5)
    assert [c.probability for c in candidates] == sorted(
        (c.probability for c in candidates), reverse=True
    )
    first = candidates[0]
    assert VOCAB[first.token_id] == first.token
    assert masked.fill_mask(TEXTS[1], top_k=3)[0] == candidates[:3]
    two = masked.fill_mask([TEXTS[3], TEXTS[1]], top_k=3)
    assert [len(masks) for masks in two] == [2, 1]
    assert two[1] == [candidates[:3]]
    assert len(masked.fill_mask(TEXTS[1], top_k=1000)[0]) == 61


# ---- classify ----


def test_scores_are_probabilities(classifier: Model) -> None:
    results = classifier.classify([*TEXTS, ("ab", "cd")])
    assert len(results) == len(TEXTS) + 1
    for result in results:
        assert [label for label, _ in result.scores] == ["LABEL_0", "LABEL_1", "LABEL_2"]
        assert math.isclose(sum(score for _, score in result.scores), 1, rel_tol=1e-5)
        assert (result.label, result.score) == max(result.scores, key=lambda item: item[1])
    assert classifier.classify(TEXTS[0]) == results[0]
    assert classifier.classify(("ab", "cd")) == results[-1] != classifier.classify("ab cd")


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_problem_type_decides_the_scores(problem: str, classifier: Model, tmp_path: Path) -> None:
    labels = {"0": "good", "1": "bad", "2": "ugly"}
    path = directory(
        tmp_path / "model",
        "BertForSequenceClassification-24",
        problem_type=problem,
        id2label=labels,
    )
    usual = [score for _, score in classifier.classify("abc").scores]
    with s2s_infer.load(path) as model:
        result = model.classify("abc")
    assert [label for label, _ in result.scores] == ["good", "bad", "ugly"]
    scores = np.array([score for _, score in result.scores])
    logits = np.log(scores / (1 - scores)) if problem.startswith("multi") else scores
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), usual, rtol=1e-4)


# ---- native files, dtypes ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["masked", "classifier"])
def test_native_file_is_the_same_model(
    folders: dict[str, Path], kind: str, dtype: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.s2s"
    save_native(load_checkpoint(folders[kind], dtype), file)
    with s2s_infer.load(folders[kind], dtype=dtype) as a, s2s_infer.load(file) as b:
        assert a.config == b.config and a.special_tokens == b.special_tokens
        vectors = [m.encode([*TEXTS, ("a", "b")], pooling="mean").tobytes() for m in (a, b)]
        assert vectors[0] == vectors[1]
        if kind == "masked":
            assert a.fill_mask(TEXTS[1]) == b.fill_mask(TEXTS[1])
        else:
            assert a.classify(TEXTS) == b.classify(TEXTS)
    with s2s_infer.load(file, dtype="float32") as c:
        c.encode(TEXTS)


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.999), ("int8", 0.99)])
def test_small_dtypes_are_near(folders: dict[str, Path], dtype: str, least: float) -> None:
    with s2s_infer.load(folders["base"]) as a, s2s_infer.load(folders["base"], dtype=dtype) as b:
        one, two = (m.encode(TEXTS, pooling="mean", normalize=True) for m in (a, b))
    assert (one * two).sum(1).min() > least


# ---- errors ----


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m: m.translate("a"), UnsupportedError, "encoder alone, which generates no text"),
        (lambda m: m.generate_ids([[5]]), UnsupportedError, "can encode, fill masks or classify"),
        (lambda m: list(m.stream("a")), UnsupportedError, "encoder alone"),
        (lambda m: m.score("a", "b"), UnsupportedError, "encoder alone"),
        (
            lambda m: m.classify("a"),
            UnsupportedError,
            r"\(bert\) has no classification head: open a checkpoint of BertForSequenceClass",
        ),
        (lambda m: m.encode("a", pooling="max"), OptionError, "pooling must be one of cls, mean"),
        (lambda m: m.encode("a", pooling="pooler"), UnsupportedError, "no pooler.*BertModel"),
        (lambda m: m.encode("a", normalize=True), OptionError, "normalize is for vectors"),
        (
            lambda m: m.encode([("a", "b", "c")]),
            OptionError,
            r"texts\[0\] must be a text or a pair",
        ),
        (lambda m: m.encode([5]), OptionError, r"texts\[0\] must be a string"),
        (lambda m: m.encode("a " * 40), s2s_infer.InputTooLongError, "the text has 42 tokens"),
        (lambda m: m.fill_mask(["[MASK]", "a"]), OptionError, r"texts\[1\] has no \[MASK\]"),
        (lambda m: m.fill_mask("[MASK]", top_k=0), OptionError, "top_k must be an integer of at"),
        (lambda m: m.encode("a", to="en"), OptionError, "no language codes"),
    ],
)
def test_wrong_calls(masked: Model, call: Callable[[Model], Any], kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        call(masked)


def test_no_mask_head(classifier: Model) -> None:
    with pytest.raises(UnsupportedError, match=r"no masked-language-model head.*BertForMaskedLM, "):
        classifier.fill_mask("[MASK]")


def test_padding_has_no_position_in_roberta() -> None:
    with s2s_infer.load(parity.FIXTURES / "RobertaModel-24") as model:
        with pytest.raises(OptionError, match=r"sources\[1\] has the padding token 1"):
            model.encode_ids([[0, 7, 2], [0, 1, 2]])
        with pytest.raises(s2s_infer.ModelError, match=r"has no source.spm and no tokenizer.json"):
            model.encode("a")


# ---- hostile directories ----


def test_wrong_configs(tmp_path: Path) -> None:
    for i, (change, words) in enumerate(
        (
            ({"architectures": ["BertForQuestionAnswering"]}, "this build computes BertModel, "),
            ({"architectures": ["BertForTokenClassification"]}, "sets architectures to"),
            ({"architectures": 5}, "sets architectures to 5"),
            ({"num_attention_heads": 5}, "hidden_size = 24 is not a multiple of it"),
            ({"hidden_size": 1 << 40}, "hidden_size"),
            ({"max_position_embeddings": 1 << 30}, "is absurd"),
            ({"max_position_embeddings": 39}, "position_embeddings.weight"),
            ({"position_embedding_type": "relative_key"}, "that is not supported"),
            ({"is_decoder": True}, "is_decoder"),
            ({"hidden_act": "swiglu"}, "this build knows relu"),
            ({"type_vocab_size": 3}, "token_type_embeddings.weight"),
            ({"layer_norm_eps": "small"}, "it must be a number"),
            ({"id2label": {"0": "a", "2": "b"}}, "a label for each of 0, 1"),
            ({"id2label": {"0": "a"}}, "classifier"),
            ({"id2label": [1]}, "a label for each of 0, 1"),
            ({"problem_type": "poetry"}, "problem_type"),
            ({"vocab_size": 62}, "word_embeddings.weight"),
            ({"num_hidden_layers": 3}, "lacks the tensor 'bert.encoder.layer.2."),
            ({"num_hidden_layers": 1}, "does not use"),
        )
    ):
        path = directory(tmp_path / str(i), "BertForSequenceClassification-24", **change)
        assert words in refusal(lambda path=path: load_and_build(path)), change


@pytest.mark.parametrize(
    "name",
    ["BertForMaskedLM-24", "RobertaForSequenceClassification-24", "DistilBertForMaskedLM-24"],
)
def test_every_tensor_is_needed_and_has_its_shape(name: str, tmp_path: Path) -> None:
    path = directory(tmp_path / "model", name)
    file = path / "model.safetensors"
    good = read_raw(file)
    for tensor, (dtype, array) in good.items():
        file.write_bytes(raw_file({k: v for k, v in good.items() if k != tensor}))
        assert "lacks the tensor" in refusal(lambda: load_and_build(path))
        wrong = np.concatenate([array, array[:1]])
        file.write_bytes(raw_file(good | {tensor: (dtype, wrong)}))
        assert "asks for" in refusal(lambda: load_and_build(path))
    file.write_bytes(raw_file(good | {"classifier2.weight": next(iter(good.values()))}))
    assert "'classifier2.weight', which this kind" in refusal(lambda: load_and_build(path))


# ---- the command line ----


def test_commands(folders: dict[str, Path], masked: Model, classifier: Model) -> None:
    arguments = ["-m", str(folders["masked"])]
    vectors = masked.encode(["abc", "de"], pooling="mean", normalize=True)
    lines = output("encode", *arguments, "--normalize", "abc", "de").splitlines()
    found = np.array([line.split(" ") for line in lines], np.float32)
    assert np.array_equal(found, vectors)
    values = output("encode", *arguments, "--pooling", "cls", "--json", stdin="abc\nde\n")
    assert [len(json.loads(line)["vector"]) for line in values.splitlines()] == [24, 24]

    (first, second) = masked.fill_mask(TEXTS[3], top_k=2)
    lines = output("fill-mask", *arguments, "--top-k", "2", TEXTS[3]).splitlines()
    assert lines == [
        "\t".join(f"{c.text or c.token} {c.probability:.4f}" for c in mask)
        for mask in (first, second)
    ]
    value = json.loads(output("fill-mask", *arguments, "--json", TEXTS[1]))
    assert value["masks"][0][0]["token_id"] == masked.fill_mask(TEXTS[1])[0][0].token_id

    arguments = ["-m", str(folders["classifier"])]
    result = classifier.classify(("ab", "cd"))
    assert output("classify", *arguments, "--pairs", stdin="ab\tcd\n") == (
        f"{result.label}\t{result.score:.4f}\n"
    )
    value = json.loads(output("classify", *arguments, "--json", "abc"))
    assert value == classifier.classify("abc").to_dict()
    assert "labels          LABEL_0, LABEL_1, LABEL_2 (softmax)" in output("info", *arguments)


def test_commands_say_what_is_wrong(folders: dict[str, Path]) -> None:
    arguments = ["-m", str(folders["masked"])]
    lines = "a\n" * 70
    assert "line 71 has no [MASK]" in error(
        "fill-mask", *arguments, stdin="[MASK]\n" * 70 + "a\n" + "[MASK]\n"
    )
    assert "line 71 has 42 tokens" in error("encode", *arguments, stdin=lines + "a " * 40)
    assert "line 2 must be two texts with a TAB" in error(
        "encode", *arguments, "--pairs", stdin="a\tb\nc\n"
    )
    assert "has no classification head" in error("classify", *arguments, "a")
    assert "generates no text" in error("translate", *arguments, "a")
