"""Write a Hugging Face Marian directory: what transformers and the engine open as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from tools.train.checkpoint import load_weights
from tools.train.expand import as_multi_head
from tools.train.layers.parameter import Parameters
from tools.train.model import ModelConfig, parameter_shapes
from tools.train.vocabulary import EOS, UNKNOWN, Vocabulary

_FILES = ("source.spm", "target.spm", "vocab.json")


def marian_config(config: ModelConfig, pad: int) -> dict[str, Any]:
    """``config.json``: the same sizes under transformers' names."""
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "vocab_size": config.n_vocab,
        "decoder_vocab_size": config.n_vocab,
        "d_model": config.d_model,
        "encoder_layers": config.n_encoder_layers,
        "decoder_layers": config.n_decoder_layers,
        "encoder_attention_heads": config.n_heads,
        "decoder_attention_heads": config.n_heads,
        "encoder_ffn_dim": config.d_ffn,
        "decoder_ffn_dim": config.d_ffn,
        "activation_function": config.activation,
        "scale_embedding": config.scale_embedding,
        "max_position_embeddings": config.max_positions,
        "normalize_before": False,
        "normalize_embedding": False,
        "static_position_embeddings": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "eos_token_id": EOS,
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        "forced_eos_token_id": None,
        "dtype": "float32",
    }


def generation_config(config: ModelConfig, pad: int) -> dict[str, Any]:
    """``generation_config.json``: beam search with 4 beams, never the padding token."""
    return {
        "num_beams": 4,
        "max_length": config.max_positions,
        "bad_words_ids": [[pad]],
        "decoder_start_token_id": pad,
        "eos_token_id": EOS,
        "pad_token_id": pad,
    }


def marian_tensors(config: ModelConfig, buffer: numpy.ndarray) -> dict[str, numpy.ndarray]:
    """Weights under the names and in the shapes (output-major) of the Hugging Face checkpoint.

    Marian has multi-head attention, and so has what is written (see `as_multi_head`).
    """
    config, buffer = as_multi_head(config, buffer)
    tensors = {}
    for name, parameter in Parameters(parameter_shapes(config), buffer).items():
        if name == "final_logits_bias":
            tensors[name] = parameter.value[None, :]
        else:
            transposed = parameter.value.ndim == 2 and name != "shared.weight"
            tensors[f"model.{name}"] = parameter.value.T if transposed else parameter.value
    return {name: numpy.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def rounded_to_bfloat16(values: numpy.ndarray) -> numpy.ndarray:
    """Each float32 as the nearest bfloat16 (ties to even), still stored as float32."""
    bits: numpy.ndarray = values.view(numpy.uint32)
    bits = (bits + numpy.uint32(0x7FFF) + ((bits >> 16) & 1)) & numpy.uint32(0xFFFF0000)
    return bits.astype(numpy.uint32).view(numpy.float32)


def export(weights: Path, vocab: Path, out: Path, bfloat16_weights: bool = False) -> None:
    """Write the model of ``weights`` with the vocabulary ``vocab`` to the directory ``out``.

    ``bfloat16_weights`` rounds them first, so that a bfloat16 file made of the directory later has
    exactly the same values.
    """
    config, buffer = load_weights(weights)
    vocabulary = Vocabulary(vocab)
    if len(vocabulary) != config.n_vocab:
        raise ValueError(
            f"{weights} has {config.n_vocab} tokens, the vocabulary {vocab} {len(vocabulary)}"
        )
    out.mkdir(parents=True, exist_ok=True)
    if bfloat16_weights:
        buffer = rounded_to_bfloat16(buffer)
    save_file(marian_tensors(config, buffer), out / "model.safetensors", {"format": "pt"})
    for name in _FILES:
        shutil.copyfile(vocab / name, out / name)
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if vocabulary.token_ids["<unk>"] != UNKNOWN:
        raise ValueError(f"{vocab}: <unk> should be token {UNKNOWN}")
    files = {
        "config.json": marian_config(config, vocabulary.pad),
        "generation_config.json": generation_config(config, vocabulary.pad),
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "MarianTokenizer",
            "source_lang": "zh",
            "target_lang": "en",
            "separate_vocabs": False,
            "model_max_length": config.max_positions,
            **special,
        },
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
