"""Random checkpoints made with numpy alone, for what surrounds a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint_files import Raw, raw_file

TOKENIZERS = Path(__file__).parent / "fixtures" / "tokenizers"
D, FFN, LAYERS, POSITIONS = 16, 24, 1, 40
ARCHITECTURES = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "m2m_100": "M2M100ForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
}


def write_checkpoint(
    folder: Path, family: str, vocab_size: int, tokenizer: str | None = None, **config: Any
) -> Path:
    """A directory of one of ARCHITECTURES, with the files of a folder of TOKENIZERS."""
    if tokenizer is not None:
        shutil.copytree(TOKENIZERS / tokenizer, folder, dirs_exist_ok=True)
    folder.mkdir(exist_ok=True)
    values = {
        "model_type": family,
        "architectures": [ARCHITECTURES[family]],
        "vocab_size": vocab_size,
        "d_model": D,
        "max_position_embeddings": POSITIONS,
        **config,
    }
    for side in ("encoder", "decoder"):
        values |= {f"{side}_layers": LAYERS, f"{side}_attention_heads": 2, f"{side}_ffn_dim": FFN}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").write_bytes(raw_file(tensors(family, vocab_size)))
    return folder


def tensors(family: str, vocab_size: int) -> dict[str, Raw]:
    rng = np.random.default_rng(3)
    tensors: dict[str, Raw] = {}

    def add(name: str, *shape: int) -> None:
        tensors[f"model.{name}"] = ("F32", rng.normal(0, 0.4, shape).astype("<f4"))

    def linear(name: str, n_out: int, n_in: int) -> None:
        add(f"{name}.weight", n_out, n_in)
        add(f"{name}.bias", n_out)

    def norm(name: str) -> None:
        add(f"{name}.weight", D)
        add(f"{name}.bias", D)

    add("shared.weight", vocab_size, D)
    for side in ("encoder", "decoder"):
        if family in ("bart", "mbart"):
            add(f"{side}.embed_positions.weight", POSITIONS + 2, D)
            norm(f"{side}.layernorm_embedding")
        if family != "bart":
            norm(f"{side}.layer_norm")
        for i in range(LAYERS):
            layer = f"{side}.layers.{i}"
            attentions = ["self_attn", "encoder_attn"] if side == "decoder" else ["self_attn"]
            for attention in attentions:
                for part in "qkv":
                    linear(f"{layer}.{attention}.{part}_proj", D, D)
                linear(f"{layer}.{attention}.out_proj", D, D)
                norm(f"{layer}.{attention}_layer_norm")
            linear(f"{layer}.fc1", FFN, D)
            linear(f"{layer}.fc2", D, FFN)
            norm(f"{layer}.final_layer_norm")
    return tensors
