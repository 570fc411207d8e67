"""Typed reading of a config.json; errors name the key, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..formats.files import read_json_object, shown
from ..generation import GenerationConfig

ACTIVATIONS = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "linear": "identity",
}
"""What transformers calls an activation -> the value of `s2s_infer.config.Activation`."""

_REQUIRED: Any = object()


class Fields:
    """The keys of one config.json.  An absent key and null are the same, but for booleans."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def error(self, key: str, expected: str) -> ModelError:
        return ModelError(f"{self.path} sets {key} to {shown(self.raw(key))}, but {expected}.")

    def raw(self, key: str) -> Any:
        return self.values.get(key)

    def _value(self, key: str, default: Any, alias: str | None) -> Any:
        value = self.raw(key)
        other = None if alias is None else self.raw(alias)
        if value is None:
            value = other
        elif other is not None and other != value:
            raise self.error(str(alias), f"{key}, its other name, to {shown(value)}")
        if value is None:
            if default is _REQUIRED:
                raise ModelError(f"{self.path} lacks {key}.")
            return default
        return value

    def integer(
        self,
        key: str,
        minimum: int,
        maximum: int = (1 << 31) - 1,
        default: Any = _REQUIRED,
        alias: str | None = None,
    ) -> Any:
        """An int within bounds, or `default`; alias: another name of the key."""
        value = self._value(key, default, alias)
        if value is not default and (type(value) is not int or not minimum <= value <= maximum):
            raise self.error(key, f"it must be an integer from {minimum} to {maximum}")
        return value

    def key_heads(self, n_heads: int) -> int:
        """num_key_value_heads, each for as many query heads."""
        n: int = self.integer("num_key_value_heads", 1, n_heads, default=n_heads)
        if n_heads % n:
            raise self.error(
                "num_key_value_heads", f"it must divide num_attention_heads, {n_heads}"
            )
        return n

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A finite number."""
        value = self._value(key, default, None)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not -1e30 < value < 1e30
        ):
            raise self.error(key, "it must be a number")
        return float(value)

    def positive(self, key: str, default: Any = _REQUIRED) -> float:
        """A number that may divide and be divided by, from 1e-9 to 1e9."""
        value = self.number(key, default)
        if not 1e-9 <= value <= 1e9:
            raise self.error(key, "it must be a number above 0")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """null is no truth value: of some keys transformers would read it as false, whatever the
        default."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "it must be true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, Any], default: str) -> Any:
        """The value that `choices` gives for the key's text."""
        value = self._value(key, default, None)
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"this build knows {', '.join(choices)}")
        return choices[value]

    def ids(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Token ids given as one or as a list."""
        value = self._value(key, default, None)
        ids = value if isinstance(value, (list, tuple)) else [value]
        if not all(type(id) is int and 0 <= id < 1 << 31 for id in ids):
            raise self.error(key, "it must be a token id or a list of them")
        return tuple(ids)

    @property
    def encodes_only(self) -> bool:
        """The class that config.json names is the encoder of an encoder-decoder family."""
        names = self.raw("architectures")
        return bool(names) and str(names[0]).endswith("EncoderModel")

    def refuse(self, key: str, *neutral: Any) -> None:
        """Raise ModelError if a key that changes the computation has none of the neutral values."""
        value = self.raw(key)
        if value is not None and value not in neutral:
            raise self.error(key, "that is not supported")


def read_generation(
    path: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> GenerationConfig:
    """The decoding defaults of a Hugging Face directory.

    generation_config.json, or where there is none (old directories) the same keys of config.json;
    defaults: for the ids that neither names.  Raises ModelError.
    """
    file = path / "generation_config.json"
    values = dict(read_json_object(file) if file.exists() else config)
    for key, value in defaults.items():
        if values.get(key) is None:
            values[key] = value
    if not file.exists():
        # In a config.json these are settings of a task pipeline or of training.
        values = {key: value for key, value in values.items() if key != "max_time"}
    return GenerationConfig.from_dict(values)
