"""Rebuild the Hugging Face directory of a Marian model from its *.s2s file.

    python -m tools.hf_directory model.s2s directory/

Without model.s2s it is the built-in model as it was trained, before it was rounded to int8.
Loading the directory again gives the same weights, bit for bit; transformers opens it as
MarianMTModel, and CTranslate2 converts it.  It is how the built-in model is compared with both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from s2s_infer.config import StackConfig
from s2s_infer.config_enums import Positions
from s2s_infer.formats.native import load_native
from s2s_infer.loaders import Checkpoint
from s2s_infer.loaders.packing import to_float32

Array = npt.NDArray[Any]

BUILT_IN = Path(__file__).parent / "train" / "zh-en.s2s"
"""The built-in model as it was trained, in bfloat16."""


class Unpacker:
    """Packed tensors back into the row-major weights [n_out, n_in] of PyTorch's linear layers."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._packed = tensors
        self.tensors: dict[str, Array] = {}

    def matrix(self, name: str, n_out: int) -> Array:
        tiles: Array = to_float32(self._packed[name])
        rows: Array = tiles.transpose(0, 2, 1).reshape(-1, tiles.shape[1])
        return rows[:n_out]

    def add(self, name: str, values: Array) -> None:
        self.tensors[name] = np.ascontiguousarray(values, np.float32)

    def norm(self, theirs: str, ours: str) -> None:
        for part in ("weight", "bias"):
            self.add(f"{theirs}.{part}", self._packed[f"{ours}.{part}"])

    def linear(self, theirs: str, ours: str, n_out: int) -> None:
        self.add(f"{theirs}.weight", self.matrix(f"{ours}.weight", n_out))
        self.add(f"{theirs}.bias", self._packed[f"{ours}.bias"][:n_out])

    def heads(self, theirs: list[str], ours: str, stack: StackConfig) -> None:
        """One packed product, its heads padded to 16, into the projections it is made of."""
        padded = -(-stack.d_head // 16) * 16
        shape = (len(theirs), stack.n_heads, padded)
        weight = self.matrix(f"{ours}.weight", int(np.prod(shape)))
        bias = self._packed[f"{ours}.bias"][: int(np.prod(shape))]
        n = stack.n_heads * stack.d_head
        for name, w, b in zip(theirs, weight.reshape(*shape, -1), bias.reshape(shape), strict=True):
            self.add(f"{name}.weight", w[:, : stack.d_head].reshape(n, -1))
            self.add(f"{name}.bias", b[:, : stack.d_head].reshape(n))

    def out_projection(self, theirs: str, ours: str, stack: StackConfig, d_model: int) -> None:
        weight = self.matrix(f"{ours}.weight", d_model)
        weight = weight.reshape(d_model, stack.n_heads, -1)[:, :, : stack.d_head]
        self.add(f"{theirs}.weight", weight.reshape(d_model, -1))
        self.add(f"{theirs}.bias", self._packed[f"{ours}.bias"][:d_model])


def weights(checkpoint: Checkpoint) -> dict[str, Array]:
    """The tensors under the names of transformers' MarianMTModel."""
    config, packed = checkpoint.config, checkpoint.tensors
    untied = {"encoder.embed", "decoder.embed", "output.weight"} & set(packed)
    if untied or config.encoder.positions != Positions.SINUSOIDAL_HALVES:
        raise SystemExit("only Marian models with tied embeddings are rebuilt")
    u, d = Unpacker(packed), config.d_model
    u.add("model.shared.weight", u.matrix("shared.embed", config.vocab_size))
    u.add("final_logits_bias", packed["output.bias"][None, : config.vocab_size])
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        for i in range(stack.n_layers):
            theirs, ours = f"model.{side}.layers.{i}", f"{side}.{i}"
            names = [f"{theirs}.self_attn.{part}_proj" for part in "qkv"]
            u.heads(names, f"{ours}.self_attn.qkv", stack)
            u.out_projection(f"{theirs}.self_attn.out_proj", f"{ours}.self_attn.out", stack, d)
            u.norm(f"{theirs}.self_attn_layer_norm", f"{ours}.self_attn.norm")
            if side == "decoder":
                names = [f"{theirs}.encoder_attn.{part}_proj" for part in "qkv"]
                u.heads(names[:1], f"{ours}.cross_attn.q", stack)
                u.heads(names[1:], f"{ours}.cross_attn.kv", stack)
                u.out_projection(
                    f"{theirs}.encoder_attn.out_proj", f"{ours}.cross_attn.out", stack, d
                )
                u.norm(f"{theirs}.encoder_attn_layer_norm", f"{ours}.cross_attn.norm")
            u.linear(f"{theirs}.fc1", f"{ours}.ffn.up", stack.d_ffn)
            u.linear(f"{theirs}.fc2", f"{ours}.ffn.down", d)
            u.norm(f"{theirs}.final_layer_norm", f"{ours}.ffn.norm")
    return u.tensors


def hf_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json"""
    config, tokens = checkpoint.config, checkpoint.special_tokens
    sides = {
        f"{side}_{name}": value
        for side, stack in (("encoder", config.encoder), ("decoder", config.decoder))
        for name, value in (
            ("layers", stack.n_layers),
            ("attention_heads", stack.n_heads),
            ("ffn_dim", stack.d_ffn),
        )
    }
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "decoder_vocab_size": config.vocab_size,
        "d_model": config.d_model,
        **sides,
        "activation_function": config.encoder.activation.value,
        "scale_embedding": config.encoder.embed_scale != 1.0,
        "max_position_embeddings": config.encoder.max_positions,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "decoder_start_token_id": tokens.start,
        "pad_token_id": tokens.padding,
        "eos_token_id": tokens.end[0],
        "bos_token_id": None,
        "forced_eos_token_id": None,
    }


def write(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the directory, tokenizer files included."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights(checkpoint), directory / "model.safetensors", metadata={"format": "pt"})
    generation = checkpoint.generation.to_dict()
    generation["pad_token_id"] = checkpoint.special_tokens.padding
    documents = {"config.json": hf_config(checkpoint), "generation_config.json": generation}
    if checkpoint.tokenizer is not None:
        _, files = checkpoint.tokenizer.to_blobs()
        for name, data in {"target.spm": files["source.spm"], **files}.items():
            (directory / name).write_bytes(data)
        documents["tokenizer_config.json"] = {
            "tokenizer_class": "MarianTokenizer",
            "source_lang": "zh",
            "target_lang": "en",
        }
    for name, values in documents.items():
        text = json.dumps(values, indent=2, ensure_ascii=False)
        (directory / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help=f"default: {BUILT_IN}")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    write(load_native(arguments.model or BUILT_IN), arguments.directory)


if __name__ == "__main__":
    main()
