"""Descriptions and options: what is accepted, what is refused and how, what travels as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2s_infer.config import ModelConfig, StackConfig
from s2s_infer.config_enums import Activation, NormPlace, Positions
from s2s_infer.errors import ModelError, OptionError
from s2s_infer.generation import GENERATION_OPTIONS, GenerationConfig
from s2s_infer.languages import guess_target
from s2s_infer.special_tokens import SpecialTokens
from s2s_infer.threads import _cgroup_quota, choose_threads

STACK = StackConfig(
    n_layers=2,
    n_heads=4,
    n_kv_heads=4,
    d_head=8,
    d_ffn=64,
    activation=Activation.SILU,
    norm_place=NormPlace.POST,
    embed_norm=False,
    final_norm=True,
    positions=Positions.SINUSOIDAL_HALVES,
    max_positions=128,
    window=0,
    embed_scale=5.5,
    attention_scale=0.35,
    norm_eps=1e-5,
)
MODEL = ModelConfig(
    vocab_size=50, source_vocab_size=60, d_model=32, output_bias=True, encoder=STACK, decoder=STACK
)


def test_model_config_travels_as_json() -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(MODEL.to_dict()))) == MODEL


def test_model_config_for_the_core_has_numbers_only() -> None:
    core = MODEL.to_core()
    assert core["output_bias"] == 1 and type(core["output_bias"]) is int
    encoder = core["encoder"]
    assert encoder["activation"] == 1 and encoder["norm_place"] == 0 and encoder["positions"] == 1
    assert encoder.pop("full_layers") == ()
    assert all(type(value) in (int, float) for value in encoder.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "swoosh"}, "activation must be one of relu, silu"),
        ({"n_layers": -1}, "n_layers must be an integer of at least 0, not -1"),
        ({"n_heads": True}, "n_heads must be an integer"),
        ({"n_kv_heads": 3}, "n_kv_heads = 3 does not divide n_heads = 4"),
        ({"final_norm": 1}, "final_norm must be true or false"),
        ({"norm_eps": float("nan")}, "norm_eps must be a positive number"),
        ({"max_positions": 1 << 40}, "max_positions"),
        ({"full_layers": [1, 0]}, "full_layers must be rising indices of layers"),
        ({"full_layers": [99]}, "full_layers must be rising indices of layers"),
        ({"qkv_bias": 0}, "qkv_bias must be true or false, not 0"),
        ({"norm_kind": "mean"}, "norm_kind must be one of layer, rms"),
        ({"positions": "relative"}, "max_distance must be an integer of at least 1, not 0"),
        ({"positions": "rotary", "d_rotary": 3}, "d_rotary must be even and at most d_head"),
        ({"attention_softcap": -1.0}, "attention_softcap must be a number of at least 0"),
    ],
)
def test_wrong_stack_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        replace(STACK, **change)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("colour", 1, "unknown field 'colour'"),
        ("d_model", None, "d_model must be an integer"),
        ("encoder", 3, "config.encoder must be a mapping"),
    ],
)
def test_wrong_model_json_is_refused(key: str, value: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ModelConfig.from_dict({**MODEL.to_dict(), key: value})
    lacking = {k: v for k, v in MODEL.to_dict().items() if k != "vocab_size"}
    with pytest.raises(ModelError, match="lacks field 'vocab_size'"):
        ModelConfig.from_dict(lacking)


def test_special_tokens() -> None:
    tokens = SpecialTokens(start=3, end=0, languages={"en": 5})  # type: ignore[arg-type]
    assert tokens.end == (0,)
    assert SpecialTokens.from_dict(json.loads(json.dumps(tokens.to_dict()))) == tokens
    with pytest.raises(ModelError, match=r"SpecialTokens.start must be an integer"):
        SpecialTokens(start=-1)


# ---- Generation options ----


def test_defaults_are_hugging_faces_neutral_ones() -> None:
    config = GenerationConfig()
    assert (config.num_beams, config.do_sample, config.top_k, config.top_p) == (1, False, 50, 1.0)
    assert config.max_new_tokens is None and config.early_stopping is False
    assert config.to_dict() == {}


def test_reads_a_marian_generation_config() -> None:
    config = GenerationConfig.from_dict(
        {
            "bad_words_ids": [[58100]],
            "bos_token_id": 0,
            "decoder_start_token_id": 58100,
            "eos_token_id": 0,
            "forced_eos_token_id": 0,
            "max_length": 512,
            "num_beams": 6,
            "pad_token_id": 58100,
            "renormalize_logits": True,
            "transformers_version": "4.32.0",
            "use_cache": True,
        }
    )
    assert config.eos_token_id == (0,) and config.bad_words_ids == ((58100,),)
    assert config.num_beams == 6 and config.max_length == 512 and config.renormalize_logits
    assert GenerationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("key", "neutral", "other"),
    [
        ("num_beam_groups", 1, 2),
        ("penalty_alpha", None, 0.6),
        ("typical_p", 1.0, 0.9),
        ("constraints", None, ["x"]),
        ("sequence_bias", None, {"1": 2.0}),
        ("guidance_scale", None, 2.0),
        ("encoder_repetition_penalty", 1.0, 1.5),
        ("stop_strings", None, ["."]),
    ],
)
def test_unsupported_keys_are_refused_only_where_they_matter(
    key: str, neutral: object, other: object
) -> None:
    assert GenerationConfig.from_dict({key: neutral}) == GenerationConfig()
    with pytest.raises(ModelError, match=f"{key} .*not supported"):
        GenerationConfig.from_dict({key: other})


def test_bad_checkpoint_value_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="in the generation config, num_beams must be"):
        GenerationConfig.from_dict({"num_beams": "4"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("num_beams", 0),
        ("num_beams", 1025),
        ("length_penalty", float("nan")),
        ("length_penalty", float("inf")),
        ("early_stopping", "sometimes"),
        ("do_sample", 1),
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 1.01),
        ("seed", -1),
        ("seed", 2**64),
        ("repetition_stop", 1),
        ("repetition_penalty", 0),
        ("bad_words_ids", [3]),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", "x"),
        ("suppress_tokens", [-1]),
        ("suppress_tokens", [2**31]),
        ("eos_token_id", "0"),
        ("eos_token_id", [0.0]),
        ("return_alternatives", -1),
        ("num_beams", np.array([2, 3])),
        ("eos_token_id", [np.array([2, 3])]),
        ("length_penalty", np.array([2.0, 3.0])),
        ("length_penalty", 10**400),
        ("length_penalty", 1j),
    ],
)
def test_wrong_option_value_names_the_option_and_the_value(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name) as caught:
        GenerationConfig().replace(**{name: value})
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_return_sequences": 2}, "num_return_sequences=2 is more than num_beams=1"),
        ({"do_sample": True, "temperature": 0}, "temperature must be above 0"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        GenerationConfig().replace(**options)


def test_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown option 'num_beam'; did you mean 'num_beams'"):
        GenerationConfig().replace(num_beam=4)
    with pytest.raises(OptionError, match="the options are max_new_tokens"):
        GenerationConfig().replace(zzz=4)
    with pytest.raises(OptionError, match="'typical_p' is not supported"):
        GenerationConfig().replace(typical_p=0.5)


def test_numpy_scalars_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    config = GenerationConfig(
        num_beams=np.int64(3), top_p=np.float32(0.5), eos_token_id=np.array([1, 2])
    )
    assert config.num_beams == 3 and type(config.num_beams) is int
    assert config.top_p == 0.5 and config.eos_token_id == (1, 2)


def test_every_option_is_described_and_reaches_the_core() -> None:
    for name, option in GENERATION_OPTIONS.items():
        assert len(option.metadata["help"]) > 20, name
    core = GenerationConfig(
        do_sample=True, seed=3, top_k=7, bad_words_ids=((1, 2),), forced_bos_token_id=4
    ).to_core(n_prefix=1, max_new_tokens=9, default_limit=True)
    assert core["max_new_tokens"] == 9 and core["repetition_stop"] == 8
    assert core["seed"] == 3 and core["top_k"] == 7 and core["bad_words"] == ((1, 2),)
    assert core["forced_bos_token_id"] == 4


def test_min_length_counts_the_prefix_and_repetition_stop_follows_the_limit() -> None:
    config = GenerationConfig(min_length=10)
    core = config.to_core(n_prefix=4, max_new_tokens=50, default_limit=False)
    assert core["min_new_tokens"] == 6 and core["repetition_stop"] == 0
    core = config.replace(min_new_tokens=3).to_core(
        n_prefix=4, max_new_tokens=50, default_limit=False
    )
    assert core["min_new_tokens"] == 3


# ---- Languages, threads ----


@pytest.mark.parametrize(
    ("text", "languages", "expected"),
    [
        ("今天天气很好", ("en", "zh"), "en"),
        ("The weather", ("en", "zh"), "zh"),
        ("Li said 你好", ("zh", "en"), "en"),
        ("12", ("en", "zh"), "zh"),
        (">>en<< 你好", ("en", "zh"), None),
        (">>fr<< 你好", ("en", "zh"), "en"),
        ("hello", ("de", "fr"), None),
        ("你好", ("zh", "ja"), None),
        ("你好", ("zh", "en", "de"), None),
        ("你好", (), None),
    ],
)
def test_guess_of_the_target_language(
    text: str, languages: tuple[str, ...], expected: str | None
) -> None:
    assert guess_target(text, languages) == expected


def test_threads_default_to_the_cpus_of_the_process() -> None:
    count, reason = choose_threads(None)
    assert 1 <= count <= len(os.sched_getaffinity(0))
    assert "CPU" in reason
    assert choose_threads(3) == (3, "as asked for")


@pytest.mark.parametrize("threads", [0, -1, 1 << 20, 1.5, "2", True])
def test_wrong_thread_counts(threads: Any) -> None:
    with pytest.raises(OptionError, match="threads must be"):
        choose_threads(threads)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/gone\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n3:memory:/\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert _cgroup_quota(tmp_path) == expected
