"""The built-in model as it was trained, against transformers on the directory rebuilt from it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity
import s2s_infer
from s2s_infer.formats.native import load_native
from s2s_infer.loaders import load_checkpoint
from s2s_infer.loaders.packing import to_dtype
from s2s_infer.opening import bundled_model
from tools.hf_directory import BUILT_IN, weights, write

WHO = [("我", "I"), ("他妈妈", "His mother"), ("我们的老师", "Our teacher"), ("谁", "Who")]
WHEN = [("今天", "today"), ("昨天晚上", "last night"), ("每天早上七点", "at seven every morning")]
WHAT = [
    ("喝了两杯茶", "drank two cups of tea"),
    ("去图书馆看书", "goes to the library to read"),
    ("不想说英语", "doesn't want to speak English"),
    ("买了一辆新车", "bought a new car"),
    ("觉得天气很好", "thinks the weather is nice"),
    ("和朋友一起去北京旅行", "travelled to Beijing with friends"),
    ("在找钥匙", "is looking for the keys"),
    ("知道答案", "knows the answer"),
    ("喜欢这首歌", "likes this song"),
]
SENTENCES = [
    sentence
    for (zh, en), (when_zh, when_en), (what_zh, what_en) in itertools.product(WHO, WHEN, WHAT)
    for sentence in (f"{zh}{when_zh}{what_zh}。", f"{en} {what_en} {when_en}.")
] + [
    "今天天气很好",
    "你叫什么名字？",
    "Hi!",
    "别忘了：明天下午三点，我们在车站见面，然后一起去看电影。",
]

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "beam4": {"num_beams": 4},
    "beam4-short": {"num_beams": 4, "length_penalty": 0.0, "early_stopping": True},
    "beam4-strict": {"num_beams": 4, "early_stopping": "never", "no_repeat_ngram_size": 2},
}


def test_rebuilt_directory_has_the_same_weights(tmp_path: Path) -> None:
    native = load_native(BUILT_IN)
    write(native, tmp_path)
    again = load_checkpoint(tmp_path, dtype=native.dtype)
    assert again.config == native.config
    assert set(again.tensors) == set(native.tensors)
    for name, array in native.tensors.items():
        assert again.tensors[name].tobytes() == array.tobytes(), name


def test_the_bundled_model_is_this_one_in_int8() -> None:
    full, shipped = load_native(BUILT_IN), load_native(bundled_model())
    assert shipped.dtype == "int8"
    assert shipped.config == full.config and shipped.generation == full.generation
    assert shipped.special_tokens == full.special_tokens
    assert shipped.tokenizer is not None and full.tokenizer is not None
    assert shipped.tokenizer.to_blobs() == full.tokenizer.to_blobs()
    ours, theirs = (to_dtype(c.tensors, "float32", c.config) for c in (shipped, full))
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        spread = np.abs(array - theirs[name]).max(axis=(1, 2)) if array.ndim == 3 else 0.0
        step = np.abs(theirs[name]).max(axis=(1, 2)) / 127 if array.ndim == 3 else 0.0
        assert np.all(spread <= 4 * step), name


def test_rebuilt_directory_of_padded_heads_has_the_same_weights() -> None:
    from safetensors.numpy import load_file

    folder = parity.FIXTURES / "silu-3x20"
    original = load_file(folder / "model.safetensors")
    rebuilt = weights(load_checkpoint(folder))
    assert set(rebuilt) == set(original)
    for name, array in original.items():
        assert np.array_equal(rebuilt[name], array), name


Triple = tuple[Any, Any, s2s_infer.Model]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triple]:
    from transformers import MarianTokenizer

    folder = tmp_path_factory.mktemp("built-in")
    write(load_native(BUILT_IN), folder)
    with s2s_infer.load(BUILT_IN) as model:
        with warnings.catch_warnings():  # recommends a package that it does not need
            warnings.simplefilter("ignore")
            tokenizer = MarianTokenizer.from_pretrained(folder)
        yield parity.open_reference(folder), tokenizer, model


def source_ids(tokenizer: Any, text: str) -> list[int]:
    to = "en" if ord(text[0]) > 0x2E80 else "zh"
    ids: list[int] = tokenizer(f">>{to}<< {text}").input_ids
    return ids


@pytest.mark.reference
def test_tokenizer(pair: Triple) -> None:
    _, tokenizer, model = pair
    for text in SENTENCES:
        ids = source_ids(tokenizer, text)
        assert model.tokenizer.encode_source(text, to=model.tokenizer.tokens(ids)[0][2:-2]) == ids


@pytest.mark.reference
@pytest.mark.parametrize("name", list(OPTIONS))
def test_sentences(pair: Triple, name: str) -> None:
    """Every sentence is translated by one of the option sets; together they are 220."""
    reference, tokenizer, model = pair
    texts = SENTENCES[list(OPTIONS).index(name) :: len(OPTIONS)]
    sources = [source_ids(tokenizer, text) for text in texts]
    expected = parity.reference_generate(reference, sources, OPTIONS[name], max_new_tokens=40)
    found = parity.engine_generate(model, sources, OPTIONS[name], max_new_tokens=40)
    assert parity.compare(found, expected, name) == 0


@pytest.mark.reference
def test_encoder_output_and_logits(pair: Triple) -> None:
    reference, tokenizer, model = pair
    for text in SENTENCES[::10]:
        source = source_ids(tokenizer, text)
        target = [*model.generate([text])[0].token_ids, parity.EOS]
        expected = parity.reference_forward(reference, source, target)
        found = parity.engine_forward(model, source, target)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=parity.TOLERANCE)
