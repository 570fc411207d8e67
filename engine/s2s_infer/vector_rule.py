"""How a checkpoint of sentence-transformers makes its vectors: modules.json and its companions.

Reimers and Gurevych, "Sentence-BERT" (2019).  What is read: the pooling, whether vectors are
divided by their length, and how many tokens of a text count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .errors import ModelError
from .formats.files import parse_json, read_file, read_json_object, shown
from .records import record

_MODES = {"cls_token": "cls", "mean_tokens": "mean"}
MAX_MODULES_BYTES = 1 << 20


@record
class VectorRule:
    """What `encode(pooling="auto")` does."""

    pooling: str
    """"cls" or "mean"."""
    normalize: bool
    """Vectors are divided by their Euclidean length."""
    max_tokens: int
    """A text has at most as many, special tokens included; 0: as the model has positions."""
    unsupported: str = ""
    """Where the checkpoint's vectors are made otherwise, a sentence that names the file and key."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, what: str) -> VectorRule:
        """Read what `to_dict` wrote.  Raises ModelError."""
        expected = {"pooling": str, "normalize": bool, "max_tokens": int, "unsupported": str}
        if (
            not isinstance(values, Mapping)
            or set(values) != set(expected)
            or any(type(values[name]) is not kind for name, kind in expected.items())
            or values["pooling"] not in _MODES.values()
            or values["max_tokens"] < 0
        ):
            raise ModelError(f"{what} does not say how vectors are made.")
        return cls(**values)


def read_vector_rule(path: Path) -> VectorRule | None:
    """What a directory says, or None where it has no modules.json.  Raises ModelError."""
    file = path / "modules.json"
    if not file.exists():
        return None
    modules = parse_json(read_file(file, MAX_MODULES_BYTES), str(file))
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules
    ):
        raise ModelError(f"{file} must be a list of modules with their types.")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    rule = VectorRule("mean", "Normalize" in kinds, 0)
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return _unsupported(rule, f"{file} has the modules {', '.join(kinds)}")
    if modules[0].get("path") not in (None, ""):
        return _unsupported(rule, f"{file} has its Transformer in {shown(modules[0]['path'])}")
    folder = modules[1].get("path")
    if not isinstance(folder, str) or not folder or folder in (".", "..") or "/" in folder:
        raise ModelError(f"{file} names the folder {shown(folder)}, which is not a plain name.")
    return _companions(path, path / folder / "config.json", rule)


def _companions(path: Path, file: Path, rule: VectorRule) -> VectorRule:
    """The rule with what config.json of the pooling and the files beside modules.json say."""
    values = read_json_object(file)
    modes = [
        key.removeprefix("pooling_mode_")
        for key, value in values.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    if isinstance(values.get("pooling_mode"), str):  # as it is saved now
        modes = [
            {"cls": "cls_token", "mean": "mean_tokens"}.get(name := values["pooling_mode"], name)
        ]
    if len(modes) != 1 or modes[0] not in _MODES:
        return _unsupported(rule, f"{file} pools by {', '.join(modes) or 'nothing'}")
    length: Any = 0
    companion = path / "sentence_bert_config.json"
    if companion.exists():
        own = read_json_object(companion)
        length = own.get("max_seq_length") or 0
        if type(length) is not int or not 0 <= length < 1 << 31:
            raise ModelError(f"{companion} sets max_seq_length to {shown(length)}, not a length.")
        if own.get("do_lower_case"):
            return _unsupported(rule, f"{companion} sets do_lower_case")
    companion = path / "config_sentence_transformers.json"
    if companion.exists() and read_json_object(companion).get("default_prompt_name"):
        return _unsupported(rule, f"{companion} sets default_prompt_name")
    return VectorRule(_MODES[modes[0]], rule.normalize, length)


def _unsupported(rule: VectorRule, what: str) -> VectorRule:
    return VectorRule(
        rule.pooling,
        rule.normalize,
        0,
        f"{what}, which is not supported: name a pooling.",
    )
