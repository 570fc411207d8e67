"""Models that are a decoder alone: prompts in blocks, what they refuse, text in and out."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity_families as families
import s2s_infer
from s2s_infer import OptionError
from s2s_infer.loaders import load_checkpoint

NAMES = ("gpt2", "gpt_bigcode", "llama", "deepseek_v3")
WORDS = ["<unk>", "</s>", "<sep>", "the", "dog", "cat", "sees", *(f"w{i}" for i in range(53))]


def prompts(lengths: tuple[int, ...], seed: int = 1) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(4, 60) for _ in range(n)] for n in lengths]


def check_blocks(model: s2s_infer.Model, rows: list[list[int]], max_new_tokens: int) -> None:
    """Reading prompts in blocks gives the bits of reading them token by token, as a trace does."""
    together = model.generate_ids(rows, max_new_tokens=max_new_tokens)
    for row, result in zip(rows, together, strict=True):
        trace = model.trace(row, max_new_tokens=max_new_tokens)
        n = len(row) - 1
        assert trace["output.ids"][n:].tolist()[: len(result.token_ids)] == result.token_ids
        expected = trace["output.logprobs"][n:].tobytes()
        assert np.array(result.token_logprobs, np.float32).tobytes() == expected
        assert result.input_ids == row


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_prompts_in_blocks(name: str, dtype: str) -> None:
    with s2s_infer.load(families.FIXTURES / name, dtype=dtype) as model:
        check_blocks(model, prompts((1, 2, 17, 40, 55, 33, 50)), 8)


@pytest.mark.parametrize("full_layers", [(), (1,)])
def test_prompts_longer_than_window_and_block(full_layers: tuple[int, ...]) -> None:
    checkpoint = load_checkpoint(families.FIXTURES / "llama")
    stack = replace(
        checkpoint.config.decoder, window=5, full_layers=full_layers, max_positions=1000
    )
    config = replace(checkpoint.config, decoder=stack)
    rows = prompts((3, 140, 700, 300))
    with s2s_infer.Model(replace(checkpoint, config=config)) as model:
        check_blocks(model, rows, 9)
        windowed = [r.token_ids for r in model.generate_ids(rows, max_new_tokens=9, num_beams=3)]
        alone = [
            model.generate_ids([row], max_new_tokens=9, num_beams=3)[0].token_ids for row in rows
        ]
        assert windowed == alone


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*NAMES, "t5", "t5gemma"])
def test_simd_level_and_threads(name: str, threads: int) -> None:
    rows = prompts((5, 30, 12, 1))
    options: dict[str, Any] = {"max_new_tokens": 10, "num_beams": 3}
    found = []
    for isa in s2s_infer._core.ISA_NAMES:
        with s2s_infer.load(families.FIXTURES / name, isa=isa, threads=threads) as model:
            results = model.generate_ids(rows, **options)
        found.append([(r.token_ids, r.score, r.token_logprobs) for r in results])
    assert all(some == found[0] for some in found)


def test_score_of_a_continuation_is_what_generate_reports() -> None:
    with s2s_infer.load(families.FIXTURES / "llama") as model:
        for row in prompts((4, 20, 33)):
            result = model.generate_ids([row], max_new_tokens=6)[0]
            score = model.score([row], [result.token_ids])[0]
            n = len(result.token_ids)
            assert list(score.token_logprobs)[:n] == list(result.token_logprobs)[:n]
            assert score.token_ids == result.token_ids and score.input_ids == row


def test_forced_prefix_comes_after_the_prompt_and_is_output() -> None:
    with s2s_infer.load(families.FIXTURES / "gpt2") as model:
        row = prompts((9,))[0]
        plain = model.generate_ids([[*row, 7, 8]], max_new_tokens=5)[0]
        forced = model.generate_ids([row], prefix=[7, 8], max_new_tokens=5)[0]
        assert forced.token_ids == [7, 8, *plain.token_ids]
        unscored = model.generate_ids([row], max_new_tokens=5, return_scores=False)[0]
        assert unscored.token_ids == model.generate_ids([row], max_new_tokens=5)[0].token_ids


@pytest.fixture
def with_words(tmp_path: Path) -> Path:
    """GPT-2 with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "gpt2"
    shutil.copytree(families.FIXTURES / "gpt2", folder)
    vocab = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_text_in_and_out(with_words: Path) -> None:
    """Generate, stream, and a translation written as source, separator, target."""
    prompt = "the dog sees <sep>"
    with s2s_infer.load(with_words) as model:
        result = model.generate(prompt, max_new_tokens=7)[0]
        assert result.input_ids == [WORDS.index(word) for word in prompt.split()]
        assert len(result.token_ids) <= 7
        assert (result.text or "").split() == [WORDS[i] for i in result.token_ids]
        assert "".join(model.stream(prompt, max_new_tokens=7)) == result.text
        beams = model.generate(prompt, max_new_tokens=7, num_beams=4)[0].text
        assert "".join(model.stream(prompt, max_new_tokens=7, num_beams=4)) == beams
        score = model.score([prompt], ["the cat"])[0]
        assert score.tokens == ["the", "cat"] and len(score.token_logprobs) == 3


def test_a_prompt_may_fill_all_positions() -> None:
    """The token that comes last is chosen and never fed, so it needs no position."""
    with s2s_infer.load(families.FIXTURES / "gpt2") as model:
        (row,) = prompts((64,))
        (full,) = model.generate_ids([row])
        assert len(full.token_logprobs) == 1 and full.finish_reason in ("length", "eos")
        (grown,) = model.generate_ids([row[:60]], max_new_tokens=9, eos_token_id=[])
        assert len(grown.token_ids) == 5
        assert model.score([row[:40]], [row[40:]])[0].token_logprobs[:-1] == [
            model.score([row[:n]], [[row[n]]])[0].token_logprobs[0] for n in range(40, 64)
        ]
        with pytest.raises(s2s_infer.InputTooLongError, match="has 65 tokens, but"):
            model.generate_ids([[*row, 5]])
        with pytest.raises(s2s_infer.InputTooLongError, match="prefix with its prompt has 65 tok"):
            model.generate_ids([row], prefix=[5])
        with pytest.raises(OptionError, match=r"60 given ones \(prompt and forced prefix\)"):
            model.generate_ids([row[:58]], prefix=[5, 6], max_length=60)


@pytest.mark.parametrize(
    ("name", "model_type", "expected"),
    [
        ("llama", "llama", 2048),
        ("llama", "mistral", 131072),
        ("deepseek_v2", "deepseek_v2", 2048),
        ("deepseek_v3", "deepseek_v3", 4096),
        ("gpt_bigcode", "gpt_bigcode", 64),
    ],
)
def test_positions_that_a_config_leaves_out(
    name: str, model_type: str, expected: int, tmp_path: Path
) -> None:
    """As many as the configuration class of transformers has for this type."""
    folder = tmp_path / name
    shutil.copytree(families.FIXTURES / name, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("max_position_embeddings", None)
    config["model_type"] = model_type
    config["architectures"] = None
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_checkpoint(folder).config.decoder.max_positions == expected


def test_an_empty_prompt_begins_with_the_beginning_token(with_words: Path) -> None:
    bos = [1]
    with s2s_infer.load(with_words) as model:
        assert model.special_tokens.bos == bos[0]
        expected = model.generate_ids([bos], max_new_tokens=7)[0]
        for found in (
            model.generate("", max_new_tokens=7)[0],
            model.generate("  ", max_new_tokens=7)[0],
            model.generate_ids([[]], max_new_tokens=7)[0],
        ):
            assert found == expected and found.input_ids == bos
        assert "".join(model.stream("", max_new_tokens=7)) == expected.text
        assert model.score([""], ["the cat"]) == model.score([bos], [[3, 5]])
    checkpoint = load_checkpoint(families.FIXTURES / "gpt2")
    tokens = replace(checkpoint.special_tokens, bos=None)
    with (
        s2s_infer.Model(replace(checkpoint, special_tokens=tokens)) as model,
        pytest.raises(OptionError, match=r"sources\[1\] is empty, and the model names no token"),
    ):
        model.generate_ids([[5], []])


def test_what_needs_an_encoder_is_refused(with_words: Path) -> None:
    with s2s_infer.load(with_words) as model:
        for call in (
            lambda: model.translate("the dog"),
            lambda: model.encode(["the dog"]),
            lambda: model.encode_ids([[3, 4]]),
            lambda: model.generate("the dog", to="en"),
        ):
            with pytest.raises(OptionError, match=r"needs an encoder.*\(gpt2\) is a decoder alone"):
                call()
        with pytest.raises(OptionError, match="return_alignment must be 0 for a model without"):
            model.generate("the dog", return_alignment=True)
        with pytest.raises(OptionError, match="has 70 tokens, but the model has 64 positions;"):
            model.generate("dog " * 70)
        cut = model.generate("cat " + "dog " * 70, truncate=True, max_new_tokens=3)[0]
        assert cut.input_truncated and cut.input_ids == [WORDS.index("dog")] * 64


def test_cached_numbers_of_each_kind_of_attention() -> None:
    """Multi-head: 2 x heads x width; multi-query and grouped: of the shared heads; latent: one
    vector and one rotary key, whatever the heads (padding included)."""
    cached = {
        name: load_checkpoint(families.FIXTURES / name).config.decoder.d_cached for name in NAMES
    }
    assert cached == {
        "gpt2": 2 * 2 * 16,
        "gpt_bigcode": 2 * 1 * 16,
        "llama": 2 * 2 * 16,
        "deepseek_v3": 32 + 16,
    }


def test_kv_arithmetic_of_latents_and_of_windows() -> None:
    from s2s_infer.kv_arithmetic import kv_caches

    config = load_checkpoint(families.FIXTURES / "deepseek_v3").config
    kinds = {kind.kind: kind for kind in kv_caches(config, length=100)}
    plain, latent = kinds["MHA"], kinds["MLA"]
    assert not plain.actual and plain.numbers_per_token == 4 * (20 + 10)
    assert latent.actual and latent.self_numbers == 2 * 100 * (24 + 8)
    stack = load_checkpoint(families.FIXTURES / "t5gemma").config.decoder
    assert stack.window == 3 and stack.full_layers == (1,)
    assert stack.cached_positions(100) == 3 + 100 and stack.cached_positions(2) == 4


CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("deepseek_v3", {"first_k_dense_replace": 1}, "first_k_dense_replace to 1.*mixture of experts"),
    ("deepseek_v3", {"rms_norm_eps": 1e-5}, "rms_norm_eps to 1e-05, but only 1e-06"),
    ("deepseek_v3", {"kv_lora_rank": 25}, "of shape .*but its config asks for"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_type to 'dynamic', but this"),
    ("llama", {"rope_parameters": {"rope_theta": -1.0}}, "rope_theta to -1.0"),
    ("llama", {"rope_parameters": [1]}, "rope_parameters"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads to 3, but it must divide"),
    ("llama", {"hidden_act": "mish"}, "hidden_act to 'mish'"),
    ("gpt2", {"n_head": 5}, "n_head to 5, but n_embd = 32 is not a multiple"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention to True"),
    ("gpt2", {"n_layer": 3}, "lacks the tensor"),
    ("gpt2", {"layer_norm_epsilon": "x"}, "layer_norm_epsilon to 'x', but it must be a number"),
    ("gpt_bigcode", {"multi_query": False}, "of shape"),
    ("t5", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj to 'gated-mish'"),
    ("t5", {"relative_attention_max_distance": 2}, "relative_attention_max_distance to 2"),
    ("t5", {"num_layers": 1}, "which this kind of model does not use"),
    ("t5gemma", {"encoder": 3}, "encoder to 3"),
    ("t5gemma", {"decoder": {"hidden_size": 64}}, "stacks of different widths are not supported"),
    ("t5gemma", {"decoder": {"layer_types": ["chunked"]}}, "layer_types to .*must name 2 layers"),
]


@pytest.mark.parametrize(("name", "change", "words"), CHANGES)
def test_configs_that_cannot_be(
    name: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(families.FIXTURES / name, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = {**config[key], **value} if both else value
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(s2s_infer.ModelError, match=words):
        load_checkpoint(folder)
