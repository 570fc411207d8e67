"""From a checkpoint on disk to what the core computes with: one file per family of checkpoints.

`load_checkpoint` opens a native file (*.s2s) or a Hugging Face directory; for the latter,
config.json names the family, and the family's module fills a ModelConfig and the packed tensors.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ModelError, OptionError
from ..formats.files import read_json_object, shown
from .checkpoint import DTYPES, Checkpoint

__all__ = ["FAMILIES", "Checkpoint", "load_checkpoint"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "marian": ("MarianMTModel", "MarianModel"),
    "bart": ("BartForConditionalGeneration", "BartModel"),
    "mbart": ("MBartForConditionalGeneration", "MBartModel"),
    "m2m_100": ("M2M100ForConditionalGeneration", "M2M100Model"),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusModel"),
    "t5": ("T5ForConditionalGeneration", "T5WithLMHeadModel", "T5Model", "T5EncoderModel"),
    "mt5": ("MT5ForConditionalGeneration", "MT5Model", "MT5EncoderModel"),
    "umt5": ("UMT5ForConditionalGeneration", "UMT5Model", "UMT5EncoderModel"),
    "t5gemma": ("T5GemmaForConditionalGeneration", "T5GemmaModel", "T5GemmaEncoderModel"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeLMHeadModel", "GPTBigCodeModel"),
    "llama": ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    "mistral": ("MistralForCausalLM", "MistralModel"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Model"),
    "deepseek_v2": ("DeepseekV2ForCausalLM", "DeepseekV2Model"),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Model"),
    "bert": ("BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"),
    "roberta": ("RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"),
    "distilbert": (
        "DistilBertModel",
        "DistilBertForMaskedLM",
        "DistilBertForSequenceClassification",
    ),
}
"""model_type -> the architectures that are computed; another of these families is refused.

A class without output matrix (BartModel, GPT2Model, ...) is opened as the one that generates, if
its output is tied to the embeddings, as transformers opens it.  The module of a family's name, or
that of `_MODULES`, has `load(path, config, dtype) -> Checkpoint`.
"""
_ENCODER_ONLY = ("bert", "roberta", "distilbert")
_UNTIED = ("llama", "mistral", "qwen2", "deepseek_v2", "deepseek_v3")
"""Families whose config class does not tie the output to the embeddings."""
_MODULES = {
    "mt5": "t5",
    "umt5": "t5",
    "mistral": "llama",
    "qwen2": "llama",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
}


def load_checkpoint(path: str | os.PathLike[str], dtype: str = "auto") -> Checkpoint:
    """Open a native file or a Hugging Face directory.

    dtype: storage of the matrices, "float32", "bfloat16", "int8" or "int4"; "auto" is the file's
    own for a native file and float32 for a directory.  Raises ModelError, OptionError for a dtype.
    """
    try:
        path = Path(path)
        is_directory, exists = path.is_dir(), path.exists()
    except (TypeError, ValueError, OSError) as error:
        raise ModelError(f"{path!r} is not the path of a model: {error}.") from None
    if dtype not in ("auto", *DTYPES):
        raise OptionError(f"dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}.")
    if not exists:
        raise ModelError(f"there is no model at {path}.")
    if not is_directory:
        from ..formats.native import load_native

        return load_native(path, dtype)
    config = read_json_object(_config_file(path))
    family = _family(config, path)
    _check_architectures(config, family, path)
    module = import_module(f".{_MODULES.get(family, family)}", __package__)
    checkpoint: Checkpoint = module.load(path, config, "float32" if dtype == "auto" else dtype)
    return checkpoint


def _config_file(path: Path) -> Path:
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path} has adapter_config.json: it changes the weights of another checkpoint, into "
            "which it must be merged first."
        )
    file = path / "config.json"
    if not file.exists():
        natives = sorted(p.name for p in path.glob("*.s2s"))
        hint = f"; did you mean {path / natives[0]}?" if natives else "."
        raise ModelError(f"{path} has no config.json, so it is not a model directory{hint}")
    return file


def _family(config: dict[str, Any], path: Path) -> str:
    model_type, architectures = config.get("model_type"), config.get("architectures")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return model_type
    if model_type is None and isinstance(architectures, list):
        for family, names in FAMILIES.items():
            if any(name in architectures for name in names):
                return family
    raise ModelError(
        f"{path / 'config.json'} has the model_type {shown(model_type)} and the architectures "
        f"{shown(architectures)}; this build knows {', '.join(FAMILIES)}."
    )


def _check_architectures(config: dict[str, Any], family: str, path: Path) -> None:
    """Raise ModelError for a class that would be computed as another."""
    names, known = config.get("architectures"), FAMILIES[family]
    if names is None or names == []:
        return  # transformers asks for model_type alone
    sets = f"{path / 'config.json'} sets architectures to {shown(names)}"
    if not isinstance(names, list) or len(names) != 1 or names[0] not in known:
        raise ModelError(
            f"{sets}, but of {family} models this build computes {', '.join(known)}, one at a time."
        )
    is_base = names[0].endswith("Model") and not names[0].endswith(
        ("LMHeadModel", "MTModel", "EncoderModel")
    )
    is_tied = config.get("tie_word_embeddings")
    if is_tied is None:
        is_tied = family not in _UNTIED
    if is_base and family not in _ENCODER_ONLY and not is_tied:
        raise ModelError(
            f"{sets}, a class without output matrix, and its output is not tied to the embeddings "
            f"(tie_word_embeddings): it has no logits to choose tokens by; {known[0]} has."
        )
