"""The bundled model from the data, start to end: what ``recipe.json`` says, in one command.

Vocabulary, training in stages (each goes on where the one before stopped, with some options
changed; ``epochs`` counts from the very beginning), average of the latest weights, and the better
of that and the best single validation as a Hugging Face directory and a native file. Whatever is
there already is kept, so the command can be stopped and started again.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from tools.train.checkpoint import average_weights, load_state
from tools.train.config import TrainConfig
from tools.train.data import read_tsv
from tools.train.export_hf import export
from tools.train.loop import BEST, STATE, Trainer
from tools.train.translate import evaluate
from tools.train.vocabulary import train_vocabulary

RECIPE = Path(__file__).with_name("recipe.json")
_KEYS = {"vocabulary", "train", "stages", "bfloat16_weights"}


def read_recipe(path: Path = RECIPE) -> dict[str, Any]:
    """The recipe, with every option's name checked."""
    recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    known = {item.name for item in fields(TrainConfig)} - {"data", "vocab", "out"}
    wrong = (recipe.keys() ^ _KEYS) | (recipe.get("train", {}).keys() - known)
    for stage in recipe.get("stages", []):
        wrong |= stage.keys() - known
        if "epochs" not in stage:
            raise ValueError(f"{path}: a stage does not say until which of the epochs it goes")
    if wrong:
        raise ValueError(f"{path}: missing or unknown: {', '.join(sorted(wrong))}")
    return recipe


def train_stages(recipe: dict[str, Any], data: Path, vocab: Path, out: Path) -> None:
    """All stages that are not done yet."""
    for number, stage in enumerate(recipe["stages"], 1):
        resume = (out / STATE).exists()
        done = load_state(out / STATE, {})["epoch"] if resume else 0
        if done >= stage["epochs"]:
            continue
        _say(f"stage {number} of {len(recipe['stages'])}: epoch {done + 1} to {stage['epochs']}")
        places: dict[str, Any] = {"data": str(data), "vocab": str(vocab), "out": str(out)}
        Trainer(TrainConfig(**places, **(recipe["train"] | stage)), resume=resume).run()


def run(data: Path, out: Path, recipe_path: Path = RECIPE) -> dict[str, float]:
    """Follow the recipe; returns the validation scores of the model that was exported."""
    recipe = read_recipe(recipe_path)
    vocab, training = out / "vocabulary", out / "training"
    if not (vocab / "vocab.json").exists():
        sentences = (text for row in read_tsv(data / "train.tsv") for text in row)
        train_vocabulary(sentences, vocab, **recipe["vocabulary"])
    train_stages(recipe, data, vocab, training)

    candidates = [training / BEST]
    latest = sorted(training.glob("epoch-*.safetensors"))
    if latest:
        candidates.append(training / "average.safetensors")
        average_weights(latest, candidates[-1])
    ops = recipe["train"].get("ops", "auto")
    scored = {path: evaluate(path, vocab, data / "valid.tsv", ops) for path in candidates}
    for path, scores in scored.items():
        _say(f"{path.name}: {json.dumps(scores)}")
    best = max(candidates, key=lambda path: scored[path]["bleu"])
    export(best, vocab, out / "model", recipe["bfloat16_weights"])
    _say(f"{out / 'model'}: made of {best.name}")
    _write_native(out / "model", out / "model.s2s", recipe["bfloat16_weights"])
    return scored[best]


def _write_native(directory: Path, path: Path, bfloat16: bool) -> None:
    """The engine's own file, if the engine is installed."""
    try:
        from s2s_infer.formats.native import save_native
        from s2s_infer.loaders import load_checkpoint
    except ImportError as error:
        _say(f"no native file: the engine is not installed ({error})")
        return
    save_native(load_checkpoint(directory, dtype="bfloat16" if bfloat16 else "float32"), path)
    _say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _say(text: str) -> None:
    print(f"recipe: {text}", file=sys.stderr)
