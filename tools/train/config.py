"""Everything that can be chosen about one training run; the command's flags are made from this."""

from __future__ import annotations

import argparse
import json
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass
class TrainConfig:
    """One training run. ``data`` holds train.tsv and valid.tsv, ``vocab`` the vocabulary."""

    data: str = field(
        metadata={"help": "directory with train.tsv and valid.tsv (Chinese, English)"}
    )
    vocab: str = field(metadata={"help": "vocabulary directory, as written by `vocab`"})
    out: str = field(metadata={"help": "directory for weights, state and log"})

    d_model: int = _option(256, "width of the model")
    d_ffn: int = _option(1024, "inner width of the feed-forward layers")
    n_heads: int = _option(4, "attention heads")
    n_kv_heads: int = _option(
        0, "heads of keys and values in the decoder (0: as n_heads; 1: multi-query; else grouped)"
    )
    kv_rank: int = _option(0, "latent attention: width of what the decoder caches (0: none)")
    n_encoder_layers: int = _option(6, "encoder layers")
    n_decoder_layers: int = _option(2, "decoder layers")
    activation: str = _option("relu", "feed-forward activation", ("relu", "silu", "gelu"))
    depth_scaled_init: bool = _option(True, "start layer l with weights divided by sqrt(l)")

    epochs: int = _option(50, "passes over the data")
    batch_tokens: int = _option(4096, "target tokens per step, all workers together")
    max_length: int = _option(128, "leave out pairs with a longer side (in tokens)")
    learning_rate: float = _option(1e-3, "peak learning rate")
    warmup_steps: int = _option(1000, "steps until the peak")
    schedule: str = _option(
        "inverse-sqrt", "what follows the peak", ("inverse-sqrt", "cosine", "constant")
    )
    beta1: float = _option(0.9, "Adam's first-moment decay")
    beta2: float = _option(0.98, "Adam's second-moment decay")
    eps: float = _option(1e-9, "Adam's epsilon")
    weight_decay: float = _option(0.0, "decoupled weight decay of matrices")
    clip_norm: float = _option(1.0, "clip the gradient to this norm (0: never)")
    label_smoothing: float = _option(0.1, "share of the target spread over the vocabulary")
    dropout: float = _option(0.3, "dropout on embeddings and sub-layer outputs")
    attention_dropout: float = _option(0.1, "dropout on attention probabilities")
    activation_dropout: float = _option(0.1, "dropout inside the feed-forward layers")
    rdrop_alpha: float = _option(0.0, "weight of R-Drop's KL term (0: one pass, no R-Drop)")
    subword_alpha: float = _option(
        0.0, "subword regularization: power of the probabilities that are sampled from (0: off)"
    )
    subword_source: bool = _option(True, "sample segmentations of the source side")
    subword_target: bool = _option(True, "sample segmentations of the target side")
    ema_decay: float = _option(0.999, "decay of the average of weights (0: no average)")
    extra_zh_en: str = _option("", "TSV (Chinese, English) used only as zh-en, e.g. synthetic")
    extra_en_zh: str = _option("", "TSV (Chinese, English) used only as en-zh, e.g. synthetic")

    valid_every: int = _option(1, "validate every so many epochs")
    valid_bleu: bool = _option(True, "decode the validation set for BLEU and chrF")
    patience: int = _option(0, "stop after so many validations without a better score (0: never)")
    keep_last: int = _option(5, "keep the weights of so many latest epochs, for averaging")
    save_every: int = _option(0, "also write the state every so many steps (0: each epoch)")
    workers: int = _option(0, "worker processes (0: one per available core)")
    ops: str = _option("auto", "operations", ("auto", "native", "numpy"))
    seed: int = _option(1, "seed of everything random")
    init_from: str = _option("", "start from the weights of this file")

    def save(self, path: Path) -> None:
        """Write as JSON, for the record and for `resume`."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = ()) -> None:
    """One flag per field of TrainConfig."""
    for item in fields(TrainConfig):
        if item.name not in leave_out:
            _add_argument(parser, item)


def _add_argument(parser: argparse.ArgumentParser, item: Field[Any]) -> None:
    flag = "--" + item.name.replace("_", "-")
    required = item.default is MISSING
    text = item.metadata["help"] + ("" if required else " (default: %(default)s)")
    if item.type == "bool":
        parser.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=item.default, help=text
        )
        return
    kinds = {"int": int, "float": float, "str": str}
    parser.add_argument(
        flag,
        type=kinds[str(item.type)],
        required=required,
        default=None if required else item.default,
        choices=item.metadata.get("choices"),
        help=text,
        metavar=None if item.metadata.get("choices") else str(item.type).upper(),
    )
