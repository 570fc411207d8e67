"""The arithmetic of the cache: the example of the article, each kind of attention by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import parity_encoders
import s2s_infer
from s2s_infer.config import ModelConfig
from s2s_infer.kv_arithmetic import cache_numbers, kv_caches
from test_cli import error, output

TINY = Path(__file__).parent / "fixtures" / "parity" / "relu-tied"


def test_the_articles_example() -> None:
    """Six layers, 100 positions, keys and values of width 4."""
    assert cache_numbers(6, 100, 4, 4) == 6 * 100 * (4 + 4) == 4800


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    """Two layers of 8 heads of 16."""
    with s2s_infer.load(TINY) as model:
        stack = replace(model.config.decoder, n_heads=8, n_kv_heads=8, d_head=16)
        return replace(model.config, decoder=stack)


def test_each_kind_by_hand(config: ModelConfig) -> None:
    mha, gqa, mqa, mla = kv_caches(config, batch=3, beams=4, length=50, source_length=7)
    assert [kind.kind for kind in (mha, gqa, mqa, mla)] == ["MHA", "GQA", "MQA", "MLA"]
    assert [kind.actual for kind in (mha, gqa, mqa, mla)] == [True, False, False, False]
    assert [kind.numbers_per_token for kind in (mha, gqa, mqa, mla)] == [256, 64, 32, 72]
    for kind in (mha, gqa, mqa, mla):
        assert kind.self_numbers == 3 * 4 * 2 * 50 * kind.numbers_per_token
        assert kind.cross_numbers == 3 * 2 * 7 * kind.numbers_per_token
        assert kind.n_bytes == 4 * (kind.self_numbers + kind.cross_numbers)
    half = kv_caches(config, batch=3, beams=4, length=50, source_length=7, kv_dtype="bfloat16")
    assert [2 * kind.n_bytes for kind in half] == [kind.n_bytes for kind in (mha, gqa, mqa, mla)]


@pytest.mark.parametrize(("n_kv_heads", "actual"), [(8, "MHA"), (4, "GQA"), (2, "GQA"), (1, "MQA")])
def test_the_models_own_kind_is_marked(config: ModelConfig, n_kv_heads: int, actual: str) -> None:
    changed = replace(config, decoder=replace(config.decoder, n_kv_heads=n_kv_heads))
    kinds = kv_caches(changed)
    (own,) = [kind for kind in kinds if kind.actual]
    assert own.kind == actual and own.d_keys == own.d_values == n_kv_heads * 16


def test_a_latent_model() -> None:
    path = Path(__file__).parent / "fixtures" / "families" / "deepseek_v2"
    with s2s_infer.load(path) as model:
        decoder = model.config.decoder
        kinds = kv_caches(model.config, length=9)
    (own,) = [kind for kind in kinds if kind.actual]
    assert own.kind == "MLA"
    assert own.self_numbers == decoder.n_layers * 9 * (decoder.kv_rank + decoder.d_rotary)
    assert own.cross_numbers == 0
    per_head = decoder.d_head + decoder.d_rotary + decoder.d_value
    assert kinds[0].self_numbers == decoder.n_layers * 9 * decoder.n_heads * per_head


def test_a_latent_beside_an_encoder(config: ModelConfig) -> None:
    """As the trainer exports it: no rotary key, and cross-attention of eight heads of 16."""
    latent = replace(config.decoder, kv_rank=32, kv_norm=False, d_value=16)
    own = kv_caches(replace(config, decoder=latent), length=50, source_length=7)[-1]
    assert own.actual and own.self_numbers == 2 * 50 * 32 and own.cross_numbers == 2 * 7 * 256


def test_a_window_bounds_the_positions(config: ModelConfig) -> None:
    changed = replace(config, decoder=replace(config.decoder, window=10))
    assert kv_caches(changed, length=50)[0].self_numbers == 2 * 10 * 256
    assert kv_caches(changed, length=5)[0].self_numbers == 2 * 5 * 256
    mixed = replace(config, decoder=replace(config.decoder, window=10, full_layers=(1,)))
    assert kv_caches(mixed, length=50)[0].self_numbers == (10 + 50) * 256


def test_the_command() -> None:
    arguments = ("info", str(TINY), "--kv", "--batch", "2", "--beams", "3", "--length", "9")
    text = output(*arguments)
    assert "self-attention: 2 x 3 rows of 9 positions; cross-attention: 2 sources of 9" in text
    assert "MHA *" in text
    kv = json.loads(output(*arguments, "--json"))["kv"]
    with s2s_infer.load(TINY) as model:
        expected = kv_caches(model.config, batch=2, beams=3, length=9)
    assert [kind["n_bytes"] for kind in kv["kinds"]] == [kind.n_bytes for kind in expected]
    assert f"{expected[0].n_bytes:,}" in text
    assert "--beams must be from 1" in error(*arguments, "--beams", "0")
    encoder = parity_encoders.FIXTURES / "BertModel-24"
    assert "has no decoder" in output("info", str(encoder), "--kv")
