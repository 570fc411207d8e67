"""What the suites of encoder-only models share: random checkpoints, texts, the reference.

`fixtures/encoders/make_goldens.py` writes small checkpoints and what transformers makes of them;
`test_parity_encoders.py` compares the engine with those files, and in the marked group with
transformers itself on every class.  Only functions that need torch import it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FIXTURES = Path(__file__).parent / "fixtures" / "encoders"
TOLERANCE = 1e-4
SPECIAL = {
    "Bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "Roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}
SPECIAL["DistilBert"] = SPECIAL["Bert"]


@dataclass(frozen=True)
class Shape:
    """One random checkpoint."""

    architecture: str
    """A class of transformers: family + Model, ForMaskedLM or ForSequenceClassification."""
    vocab: int = 61
    d_model: int = 24
    n_heads: int = 3
    n_layers: int = 2
    d_ffn: int = 40
    activation: str = "gelu"
    n_positions: int = 40
    n_types: int = 2
    n_labels: int = 3
    problem_type: str | None = None
    tied: bool = True

    @property
    def family(self) -> str:
        return next(f for f in SPECIAL if self.architecture.startswith(f))

    @property
    def name(self) -> str:
        return f"{self.architecture}-{self.d_model}"

    @property
    def mask(self) -> int:
        return SPECIAL[self.family].index("[MASK]" if self.family != "Roberta" else "<mask>")


_WIDE: dict[str, Any] = {
    "vocab": 300,
    "d_model": 80,
    "n_heads": 5,
    "n_layers": 3,
    "d_ffn": 130,
    "activation": "relu",
    "n_positions": 70,
    "n_labels": 5,
}
SMALL = tuple(
    Shape(family + kind)
    for family in ("Bert", "Roberta", "DistilBert")
    for kind in ("Model", "ForMaskedLM", "ForSequenceClassification")
)
LARGE = (
    *(Shape(small.architecture, **_WIDE) for small in SMALL),
    Shape("BertForPreTraining", activation="gelu_new", n_types=5),
    Shape("BertForMaskedLM", d_model=32, n_heads=1, tied=False),
    Shape("RobertaForMaskedLM", d_model=32, n_heads=2, n_types=1, activation="silu"),
    Shape(
        "BertForSequenceClassification",
        d_model=32,
        n_heads=2,
        problem_type="multi_label_classification",
    ),
    Shape("RobertaForSequenceClassification", d_model=32, n_heads=4, n_labels=1),
    Shape(
        "DistilBertForSequenceClassification",
        d_model=32,
        n_heads=4,
        n_labels=1,
        problem_type="regression",
    ),
)


def config(shape: Shape) -> dict[str, Any]:
    """The arguments of the family's config class."""
    family = shape.family
    keys = {
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "intermediate_size": shape.d_ffn,
        "hidden_act": shape.activation,
        "type_vocab_size": shape.n_types,
        "layer_norm_eps": 1e-12 if family == "Bert" else 1e-5,
    }
    if family == "DistilBert":
        keys = {
            "dim": shape.d_model,
            "n_layers": shape.n_layers,
            "n_heads": shape.n_heads,
            "hidden_dim": shape.d_ffn,
            "activation": shape.activation,
        }
    return {
        **keys,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.n_positions,
        "pad_token_id": SPECIAL[family].index("<pad>" if family == "Roberta" else "[PAD]"),
        "num_labels": shape.n_labels,
        "problem_type": shape.problem_type,
        "tie_word_embeddings": shape.tied,
    }


def make_checkpoint(shape: Shape, path: Path) -> None:
    """Write a random model as a Hugging Face directory without tokenizer files."""
    save_random(shape.architecture, config(shape), path, len(shape.name) + shape.vocab)


def save_random(architecture: str, settings: dict[str, Any], path: Path, seed: int = 1) -> None:
    """Write a random model of a class of transformers with these arguments of its config class."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model_class = getattr(transformers, architecture)
    model = model_class(model_class.config_class(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "embed" in name:
                parameter.copy_(noise * 0.7)
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(path)


def sequences(shape: Shape, n: int, seed: int = 1) -> list[tuple[list[int], list[int]]]:
    """n inputs of 1 to 30 tokens with their token types; masks in them, no padding token."""
    rng = random.Random(f"{shape.name} {seed}")
    result = []
    for _ in range(n):
        ids = [rng.randrange(5, shape.vocab) for _ in range(rng.randrange(1, 31))]
        ids[rng.randrange(len(ids))] = shape.mask
        n_types = 1 if shape.family == "DistilBert" else shape.n_types
        result.append((ids, sorted(rng.randrange(n_types) for _ in ids)))
    return result


def reference(path: Path, inputs: list[tuple[list[int], list[int]]]) -> list[dict[str, Any]]:
    """What transformers computes of each: "states", and of those it has "pooler", "logits"."""
    import torch
    import transformers

    torch.set_num_threads(1)
    name = json.loads((path / "config.json").read_text("utf-8"))["architectures"][0]
    model = getattr(transformers, name).from_pretrained(path, dtype=torch.float32).eval()
    return reference_of(model, name, inputs)


def reference_of(
    model: Any, name: str, inputs: list[tuple[list[int], list[int]]]
) -> list[dict[str, Any]]:
    """As reference, of an opened model of the class `name`."""
    import torch

    result = []
    for ids, types in inputs:
        arguments = {"input_ids": torch.tensor([ids]), "output_hidden_states": True}
        if "DistilBert" not in name:
            arguments["token_type_ids"] = torch.tensor([types])
        with torch.no_grad():
            output = model(**arguments)
        arrays = {"states": output.hidden_states[-1][0].numpy()}
        if getattr(output, "pooler_output", None) is not None:
            arrays["pooler"] = output.pooler_output[0].numpy()
        logits = getattr(output, "logits", getattr(output, "prediction_logits", None))
        if logits is not None:
            arrays["logits"] = logits[0].numpy()
        result.append(arrays)
    return result


def engine(model: Any, inputs: list[tuple[list[int], list[int]]]) -> list[dict[str, Any]]:
    """As reference, all inputs in one call; "pooler" too where only the classifier reads it."""
    from s2s_infer import encoding

    heads = model.config.heads
    items = [encoding.Input(ids, types) for ids, types in inputs]
    result: list[dict[str, Any]] = []
    for encoder, states in encoding.hidden_states(model._open(), items):
        for array in states:
            arrays = {"states": array}
            if "pooler" in heads:
                arrays["pooler"] = encoder.head("pooler", array[:1])[0][0]
            if "masked_lm" in heads:
                arrays["logits"] = encoder.head("masked_lm", array)[0]
            if "classifier" in heads:
                arrays["logits"] = encoder.head("classifier", array[:1])[0][0]
            result.append(arrays)
    return result


def error(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """Largest difference relative to the largest number."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
