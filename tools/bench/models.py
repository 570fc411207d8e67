"""The models that are measured: the same weights in each engine's own files, made once and kept.

base      a random Marian model, 6 + 6 layers, width 512, feed-forward 2048, vocabulary 32,000
tiny      likewise, 6 + 2 layers, width 256, feed-forward 1536
built-in  the model that comes with the package, on real sentences
smoke     a random model that is made and run in no time, for tests

A model's folder holds ``hf/`` (Hugging Face), ``<dtype>.s2s``, ``ctranslate2-<dtype>/`` and
``sources.json``.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .sentences import sentence_pairs

SHAPES = {
    "base": (6, 6, 512, 2048, 8, 32000),
    "tiny": (6, 2, 256, 1536, 8, 32000),
    "smoke": (1, 1, 32, 64, 2, 200),
}
"""Encoder layers, decoder layers, d_model, width of the feed-forward blocks, heads, vocabulary."""
NAMES = ("base", "tiny", "built-in")
MODELS_OF_OTHERS = ("base", "built-in", "smoke")
"""Models that engines beside CTranslate2 are measured with, which take long."""
N_SOURCE, N_TARGET = 24, 32
"""Tokens of a random model's sources and outputs."""
N_RANDOM_SOURCES = 512
LONGEST = 512


@dataclass(frozen=True)
class BenchModel:
    """One model and its sources."""

    name: str
    directory: Path

    def native(self, dtype: str) -> Path:
        """Our own file, made when first asked for."""
        path = self.directory / f"{dtype}.s2s"
        if not path.exists():
            from s2s_infer.formats.native import save_native
            from s2s_infer.loaders import load_checkpoint

            save_native(load_checkpoint(self.directory / "hf", dtype=dtype), path)
        return path

    def ctranslate2(self, dtype: str) -> Path:
        """CTranslate2's folder, stored at that precision."""
        path = self.directory / f"ctranslate2-{dtype}"
        if not (path / "model.bin").exists():
            _convert(self.directory / "hf", path, dtype)
        return path

    def onnx(self, dtype: str) -> Path:
        """The folder of ONNX graphs."""
        path = self.directory / f"onnx-{dtype}"
        if not (path / "config.json").exists():
            from .onnx_model import write

            write(self.directory / "hf", path, dtype)
        return path

    @property
    def sources(self) -> Sources:
        """What is translated."""
        return Sources(**json.loads((self.directory / "sources.json").read_text()))


@dataclass(frozen=True)
class Sources:
    """Token ids of sources, and how long their outputs are to be."""

    name: str
    """Where they are from."""
    ids: list[list[int]]
    """In the order of the file; they serve the workloads of one and of 32 sentences too."""
    n_targets: list[int]
    """Output tokens of each."""
    natural: bool
    """Outputs of the file workload end by themselves (a trained model), not at a fixed length."""


def make(name: str, folder: Path, text: Path | None = None) -> BenchModel:
    """The model `name`, from `folder` if it was made before.  text: sentence pairs for built-in."""
    directory = folder / name
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "hf" / "config.json").exists():
        if name == "built-in":
            from s2s_infer.formats.native import load_native
            from tools.hf_directory import BUILT_IN, write

            write(load_native(BUILT_IN), directory / "hf")
        else:
            _write_random(name, directory / "hf")
    sources = _real_sources(text) if name == "built-in" else _random_sources(SHAPES[name][-1])
    (directory / "sources.json").write_text(json.dumps(sources.__dict__))
    return BenchModel(name, directory)


def _random_sources(n_vocabulary: int) -> Sources:
    rng = random.Random(3)
    ids = [
        [rng.randrange(2, n_vocabulary - 1) for _ in range(N_SOURCE)]
        for _ in range(N_RANDOM_SOURCES)
    ]
    return Sources("random tokens", ids, [N_TARGET] * len(ids), natural=False)


def _real_sources(text: Path | None) -> Sources:
    """Chinese sources and the lengths of their English references, in the model's tokens."""
    import s2s_infer

    name, pairs = sentence_pairs(text)
    with s2s_infer.load(threads=1) as model:
        tokenizer = model.tokenizer
        ids = [tokenizer.encode_source(source, to="en") for source, _ in pairs]
        n_targets = [len(tokenizer.encode_target(target)) for _, target in pairs]
    return Sources(name, ids, n_targets, natural=True)


# ---- Random models ------------------------------------------------------------------------------


def _write_random(name: str, directory: Path) -> None:
    """A Hugging Face directory of random weights, the same on every machine."""
    from safetensors.numpy import save_file

    encoder_layers, decoder_layers, d_model, d_ffn, n_heads, n_vocabulary = SHAPES[name]
    normal = partial(np.random.default_rng(1).standard_normal, dtype=np.float32)
    tensors: dict[str, Any] = {
        "model.shared.weight": normal((n_vocabulary, d_model)) * np.float32(0.02),
        "final_logits_bias": np.zeros((1, n_vocabulary), np.float32),
    }

    def linear(prefix: str, n_out: int, n_in: int) -> None:
        tensors[f"{prefix}.weight"] = normal((n_out, n_in)) * np.float32(0.02)
        tensors[f"{prefix}.bias"] = np.zeros(n_out, np.float32)

    def norm(prefix: str) -> None:
        tensors[f"{prefix}.weight"] = np.ones(d_model, np.float32)
        tensors[f"{prefix}.bias"] = np.zeros(d_model, np.float32)

    for side, n_layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        for i in range(n_layers):
            layer = f"model.{side}.layers.{i}"
            for block in ("self_attn", "encoder_attn")[: 1 + (side == "decoder")]:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{layer}.{block}.{part}", d_model, d_model)
                norm(f"{layer}.{block}_layer_norm")
            linear(f"{layer}.fc1", d_ffn, d_model)
            linear(f"{layer}.fc2", d_model, d_ffn)
            norm(f"{layer}.final_layer_norm")
    config = {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "vocab_size": n_vocabulary,
        "decoder_vocab_size": n_vocabulary,
        "d_model": d_model,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_attention_heads": n_heads,
        "decoder_attention_heads": n_heads,
        "encoder_ffn_dim": d_ffn,
        "decoder_ffn_dim": d_ffn,
        "activation_function": "relu",
        "scale_embedding": True,
        "max_position_embeddings": 2 * LONGEST,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "pad_token_id": n_vocabulary - 1,
        "eos_token_id": 0,
        "decoder_start_token_id": n_vocabulary - 1,
        "forced_eos_token_id": None,
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


# ---- CTranslate2 --------------------------------------------------------------------------------


def missing_for_ctranslate2() -> list[str]:
    """Packages that running and converting for CTranslate2 would need."""
    return [name for name in ("ctranslate2", "transformers", "torch") if find_spec(name) is None]


def _convert(hugging_face: Path, target: Path, dtype: str) -> None:
    """As its own converter for Marian, but the decoder starts from the start token's embedding.

    That converter drops the token, since the original Marian models start from zeros.
    """
    from ctranslate2.converters.transformers import BartLoader, MarianMTLoader
    from transformers import MarianMTModel

    class Loader(MarianMTLoader):  # type: ignore[misc]
        def set_decoder(self, spec: Any, decoder: Any) -> None:
            BartLoader.set_decoder(self, spec, decoder)

        def _remove_pad_weights(self, spec: Any) -> None:
            """No."""

    model = MarianMTModel.from_pretrained(hugging_face).eval()
    n_vocabulary = model.config.vocab_size
    tokens = ["</s>", "<unk>", *(f"t{i}" for i in range(2, n_vocabulary - 1)), "<pad>"]
    if (hugging_face / "vocab.json").exists():
        vocab = json.loads((hugging_face / "vocab.json").read_text(encoding="utf-8"))
        tokens = sorted(vocab, key=vocab.__getitem__)
    # never generated; so too with us (bad_words_ids)
    model.final_logits_bias[0, model.config.pad_token_id] = -1e9
    spec = Loader().get_model_spec(model)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.eos_token, spec.config.unk_token = "</s>", "<unk>"
    spec.config.decoder_start_token = tokens[model.config.decoder_start_token_id]
    spec.validate()
    spec.optimize(quantization=None if dtype == "float32" else dtype)
    target.mkdir(exist_ok=True)
    spec.save(str(target))
