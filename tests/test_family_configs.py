"""Keys of config.json that change the computation: read as transformers reads them, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import s2s_infer
from s2s_infer import _core
from s2s_infer.errors import ModelError, OptionError
from s2s_infer.loaders import load_checkpoint
from s2s_infer.loaders.checkpoint import Checkpoint

FIXTURES = Path(__file__).parent / "fixtures" / "families"
ABSENT = object()


def load(family: str, changes: dict[str, Any], path: Path) -> Checkpoint:
    """The fixture of a family with other keys in its config; a name with a dot is a key within."""
    folder = Path(shutil.copytree(FIXTURES / family, path / "model"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for name, value in changes.items():
        *sides, key = name.split(".")
        keys = config
        for side in sides:
            keys = keys[side]
        keys[key] = value
        if value is ABSENT:
            del keys[key]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "scale"), [("bart", 1.0), ("mbart", 1.0), ("pegasus", 1.0), ("m2m_100", 32**0.5)]
)
def test_embeddings_are_scaled_by_default_in_m2m100_alone(
    family: str, scale: float, tmp_path: Path
) -> None:
    checkpoint = load(family, {"scale_embedding": ABSENT}, tmp_path)
    assert checkpoint.config.encoder.embed_scale == checkpoint.config.decoder.embed_scale == scale


@pytest.mark.parametrize(
    ("family", "changes", "is_scaled"),
    [
        ("t5", {"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ("t5", {"tie_word_embeddings": False, "scale_decoder_outputs": True}, True),
        ("t5", {"tie_word_embeddings": False, "scale_decoder_outputs": ABSENT}, False),
        ("t5", {"tie_word_embeddings": ABSENT, "scale_decoder_outputs": ABSENT}, True),
        ("mt5", {"tie_word_embeddings": True}, False),
    ],
)
def test_output_scaling_as_transformers_5_saves_it(
    family: str, changes: dict[str, Any], is_scaled: bool, tmp_path: Path
) -> None:
    norm = load(family, {}, tmp_path / "as it is").tensors["decoder.final_norm.weight"]
    changed = load(family, changes, tmp_path).tensors["decoder.final_norm.weight"]
    original = norm * 32**0.5 if family == "t5" else norm
    expected = original * 32**-0.5 if is_scaled else original
    assert changed == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense_act_fn": "gelu"}, "sets dense_act_fn to 'gelu', but feed_forward_proj to 'relu'"),
        ({"is_gated_act": True}, "sets is_gated_act to True, but feed_forward_proj to 'relu'"),
    ],
)
def test_t5_activations_that_contradict_each_other(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        load("t5", changes, tmp_path)


def test_rope_scaling_goes_before_rope_parameters(tmp_path: Path) -> None:
    changes = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    plain = load("llama", {}, tmp_path / "plain").tensors["decoder.rotary.inv_freq"]
    scaled = load("llama", changes, tmp_path / "scaled").tensors["decoder.rotary.inv_freq"]
    assert scaled.tolist() == (plain / 2).tolist()


def test_m2m100_has_no_position_for_the_padding_token(tmp_path: Path) -> None:
    with s2s_infer.load(FIXTURES / "m2m_100") as model:
        for call in (
            lambda: model.generate_ids([[5, 1, 2]]),
            lambda: model.encode_ids([[5, 1, 2]]),
            lambda: model.score([[5, 2]], [[7, 1, 6]]),
        ):
            with pytest.raises(OptionError, match="has the padding token 1: M2M100 gives it no"):
                call()
    with pytest.raises(ModelError, match="sets decoder_start_token_id to 1, but"):
        load("m2m_100", {"decoder_start_token_id": 1}, tmp_path)


def test_heads_that_turn_in_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"sets partial_rotary_factor to 0\.5, but"):
        load("llama", {"partial_rotary_factor": 0.5}, tmp_path)


@pytest.mark.parametrize(("value", "window"), [(ABSENT, 4096), (None, 0), (7, 7)])
def test_an_absent_window_is_the_default_and_null_is_none(
    value: Any, window: int, tmp_path: Path
) -> None:
    mistral = {"model_type": "mistral", "architectures": None, "sliding_window": value}
    if value is ABSENT:
        del mistral["sliding_window"]
    assert load("llama", mistral, tmp_path / "mistral").config.decoder.window == window
    sides = {f"{side}.sliding_window": value for side in ("encoder", "decoder")}
    t5gemma = load("t5gemma", sides, tmp_path / "t5gemma").config
    assert t5gemma.encoder.window == t5gemma.decoder.window == window


@pytest.mark.parametrize("value", [0, -1])
def test_attention_scales_that_are_no_number_are_refused(value: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"sets query_pre_attn_scalar to {value}, but"):
        load("t5gemma", {"decoder.query_pre_attn_scalar": value}, tmp_path)


def test_numbers_of_a_stack_that_is_not_there_mean_nothing() -> None:
    checkpoint = load_checkpoint(FIXTURES / "llama")
    config = checkpoint.config.to_core()
    config["encoder"] |= {"q_rank": 2**31 - 1, "n_heads": 2**31 - 1, "n_kv_heads": 0}
    model = _core.Model(config, checkpoint.tensors)
    sizes = {"max_source_positions": 0, "max_target_positions": 16, "max_encoder_tokens": 16}
    _core.Session(model, _core.Pool(1), max_rows=2, **sizes)  # not "too large"


def test_a_decoder_alone_has_no_source_whose_ngrams_it_could_avoid() -> None:
    wanted = "encoder_no_repeat_ngram_size must be 0 for a model"
    with s2s_infer.load(FIXTURES / "gpt2") as model, pytest.raises(OptionError, match=wanted):
        model.generate_ids([[5, 6, 7]], encoder_no_repeat_ngram_size=2)


def test_latent_attention_has_as_many_key_heads_as_heads(tmp_path: Path) -> None:
    n_heads = load("deepseek_v2", {}, tmp_path / "sound").config.decoder.n_heads
    with pytest.raises(ModelError, match="num_key_value_heads"):
        load("deepseek_v2", {"num_key_value_heads": n_heads + 1}, tmp_path)


def test_a_prompt_that_leaves_no_room_is_told_the_positions_there_are(tmp_path: Path) -> None:
    model = s2s_infer.load(FIXTURES / "gpt2")
    n = model.config.decoder.max_positions
    with pytest.raises(OptionError, match=f"has {n + 1} tokens, but the model has {n} positions;"):
        model.generate_ids([[5] * (n + 1)], max_new_tokens=1)
