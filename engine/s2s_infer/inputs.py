"""What a caller gives, checked: lists, texts, token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import _core
from .errors import OptionError
from .kinds import as_integer


def as_list(name: str, values: Any) -> list[Any]:
    """A list of what a caller gave as several inputs.  Raises OptionError."""
    if type(values) is list:
        return values.copy()
    if isinstance(values, (bytes, Mapping)) or not isinstance(values, Iterable):
        raise OptionError(f"{name} must be a list, not {type(values).__name__}.")
    return list(values)


def checked_text(name: str, value: Any) -> str:
    """The text.  Raises OptionError for what is no string."""
    if not isinstance(value, str):
        raise OptionError(f"{name} must be a string, not {type(value).__name__}.")
    return value


def checked_ids(name: str, values: Any, vocab_size: int) -> list[int]:
    """The token ids, a new list.  Raises OptionError for what is no id of the vocabulary."""
    plain = _core.plain_ids(values, vocab_size)
    if plain is not None:
        return plain
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        ids: list[int] = values.tolist()
    elif isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise OptionError(f"{name} must be a list of token ids, not {type(values).__name__}.")
    else:
        ids = list(values)
        for i, token in enumerate(ids):
            if type(token) is not int:
                number = as_integer(token)
                if number is None:
                    raise OptionError(f"{name} must be a list of token ids, but holds {token!r}.")
                ids[i] = number
    for token in ids:
        if not 0 <= token < vocab_size:
            raise OptionError(
                f"{name} holds the token id {token}, but ids are from 0 to {vocab_size - 1}."
            )
    return ids


def checked_id_rows(name: str, rows: Any, vocab_size: int) -> list[list[int]]:
    """As checked_ids, for a list of lists."""
    checked: list[list[int]] = []
    for i, row in enumerate(as_list(name, rows)):
        if hasattr(row, "__index__") and not isinstance(row, np.ndarray):
            raise OptionError(
                f"{name} must be a list of lists of token ids: write [[...]] for one."
            )
        checked.append(checked_ids(f"{name}[{i}]", row, vocab_size))
    return checked
