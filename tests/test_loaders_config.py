"""Configs of directories that cannot be, or ask for what is not computed: refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files import (
    TINY,
    assert_same_tensors,
    edit_json,
    tiny_copy,
)
from s2s_infer.errors import ModelError, OptionError
from s2s_infer.loaders import Checkpoint, load_checkpoint

N_TOKENS = len(json.loads((TINY / "vocab.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint(TINY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_copy(tmp_path)


# ---- what is not supported, and what is wrong --------------------------------------------------

BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"activation_function": "mish"}, "activation_function to 'mish', but this build knows relu"),
    ({"activation_function": 3}, "activation_function to 3"),
    ({"is_encoder_decoder": False}, "is_encoder_decoder to False, but that is not supported"),
    ({"is_decoder": True}, "is_decoder to True"),
    ({"quantization_config": {"bits": 4}}, "quantization_config to {'bits': 4}"),
    ({"d_model": 33}, "lacks|encoder_attention_heads to 4, but d_model = 33 is not a multiple"),
    ({"d_model": 0}, "d_model to 0, but it must be an integer from 1"),
    ({"d_model": -32}, "d_model to -32"),
    ({"d_model": 32.0}, r"d_model to 32\.0"),
    ({"d_model": "32"}, "d_model to '32'"),
    ({"d_model": True}, "d_model to True"),
    ({"d_model": [32]}, r"d_model to \[32\]"),
    ({"d_model": 10**30}, "d_model to 1000"),
    ({"d_model": None}, r"lacks d_model\."),
    ({"d_model": 64}, r"'model.*' of shape \[\d+, 32\], but its config asks for \[\d+, 64\]"),
    ({"hidden_size": 48}, "hidden_size to 48, but d_model, its other name, to 32"),
    ({"num_hidden_layers": 5}, "num_hidden_layers to 5, but encoder_layers, its other name, to 2"),
    ({"vocab_size": None}, "lacks vocab_size"),
    ({"vocab_size": 2**31}, "vocab_size to 2147483648"),
    ({"vocab_size": N_TOKENS + 1}, "decoder_vocab_size"),
    ({"vocab_size": N_TOKENS + 1, "decoder_vocab_size": None}, r"asks for \[\d+, 32\]"),
    ({"decoder_vocab_size": 5}, "decoder_vocab_size to 5, but it must equal vocab_size"),
    ({"encoder_layers": 3}, r"lacks the tensor 'model\.encoder\.layers\.2\."),
    ({"encoder_layers": 1}, r"has the tensor 'model\.encoder\.layers\.1.* and 15 more, which this"),
    ({"decoder_layers": 0}, "decoder_layers to 0"),
    ({"decoder_layers": 10**6}, "decoder_layers to 1000000"),
    ({"encoder_attention_heads": 5}, "encoder_attention_heads to 5, but d_model = 32 is not"),
    ({"decoder_ffn_dim": 25}, r"decoder\.layers\.0\.fc1\.weight' of shape \[24, 32\]"),
    ({"max_position_embeddings": 2**31 - 1}, "max_position_embeddings to 2147483647, but a table"),
    ({"max_position_embeddings": 0}, "max_position_embeddings to 0"),
    ({"scale_embedding": "yes"}, "scale_embedding to 'yes', but it must be true or false"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings to 1, but it must be true or false"),
    ({"share_encoder_decoder_embeddings": "no"}, "share_encoder_decoder_embeddings to 'no'"),
    (
        {"decoder_start_token_id": N_TOKENS},
        rf"start token has the id {N_TOKENS}, but .* {N_TOKENS}",
    ),
    ({"decoder_start_token_id": -1}, "decoder_start_token_id to -1"),
    ({"pad_token_id": 10**6}, "padding token has the id 1000000"),
    ({"eos_token_id": N_TOKENS}, f"end token has the id {N_TOKENS}"),
    ({"eos_token_id": [0, N_TOKENS]}, f"end token has the id {N_TOKENS}"),
    (
        {"eos_token_id": [0, "x"]},
        r"eos_token_id to \[0, 'x'\], but it must be a token id or a list",
    ),
    ({"eos_token_id": -1}, "eos_token_id to -1"),
    (
        {"model_type": "xlnet"},
        "has the model_type 'xlnet' and the architectures.*this build knows marian",
    ),
    ({"model_type": ["marian"]}, r"has the model_type \['marian'\]"),
    ({"model_type": "../marian"}, "has the model_type '../marian'"),
    ({"model_type": None, "architectures": ["XLNetModel"]}, "has the model_type None"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CONFIGS, ids=lambda v: str(v)[:50])
def test_a_config_that_cannot_be_is_refused_by_name(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=message) as error:
        load_checkpoint(folder)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token_id": 10**6}, "eos_token_id has the id 1000000"),
        ({"forced_bos_token_id": N_TOKENS}, f"forced_bos_token_id has the id {N_TOKENS}"),
        ({"bad_words_ids": [[1], [N_TOKENS]]}, f"bad_words_ids has the id {N_TOKENS}"),
        ({"suppress_tokens": [10**6]}, "suppress_tokens has the id 1000000"),
        ({"num_beams": -1}, "num_beams"),
        ({"num_beams": 2.5}, "num_beams"),
        ({"num_beam_groups": 2}, "num_beam_groups to 2, which is not supported"),
        ({"length_penalty": "x"}, "length_penalty"),
        ({"max_length": 0}, "max_length"),
    ],
)
def test_decoding_defaults_that_cannot_be(folder: Path, changes: Any, message: str) -> None:
    edit_json(folder / "generation_config.json", **changes)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(folder)


def test_keys_that_change_nothing_are_no_obstacle(folder: Path, tiny: Checkpoint) -> None:
    """Those of old opus-mt configs that transformers does not read either."""
    edit_json(
        folder / "config.json",
        normalize_before=False,
        normalize_embedding=False,
        add_final_layer_norm=False,
        add_bias_logits=False,
        static_position_embeddings=True,
        num_hidden_layers=2,
        classif_dropout=0.0,
        dropout=0.5,
        model_type=None,
        id2label={"0": "x"},
    )
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config == tiny.config
    assert_same_tensors(checkpoint, tiny)


def test_a_wrong_dtype_is_an_option_error() -> None:
    with pytest.raises(
        OptionError, match="dtype must be one of auto, float32, bfloat16, int8, int4, not 'int3'"
    ):
        load_checkpoint(TINY, "int3")


def test_paths_that_are_no_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"has no config\.json, so it is not a model directory\.$"):
        load_checkpoint(tmp_path)
    (tmp_path / "a.s2s").write_bytes(b"")
    with pytest.raises(ModelError, match=re.escape(f"did you mean {tmp_path / 'a.s2s'}?")):
        load_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="a\0b"):
        load_checkpoint("a\0b")
    for path in (None, 7):
        with pytest.raises(ModelError, match="is not the path of a model"):
            load_checkpoint(path)  # type: ignore[arg-type]
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor pytorch_model\.bin\.$"):
        load_checkpoint(folder)
    (folder / "tf_model.h5").write_bytes(b"")
    with pytest.raises(ModelError, match=r"it has tf_model\.h5, which is not supported"):
        load_checkpoint(folder)
