"""What a caller gives, checked: lists, texts, token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .errors import OptionError
from .kinds import as_integer


def as_list(name: str, values: Any) -> list[Any]:
    """A list of what a caller gave as several inputs.  Raises OptionError."""
    if isinstance(values, (bytes, Mapping)) or not isinstance(values, Iterable):
        raise OptionError(f"{name} must be a list, not {type(values).__name__}.")
    return list(values)


def checked_text(name: str, value: Any) -> str:
    """The text.  Raises OptionError for what is no string."""
    if not isinstance(value, str):
        raise OptionError(f"{name} must be a string, not {type(value).__name__}.")
    return value


def checked_ids(name: str, values: Any, vocab_size: int) -> list[int]:
    """The token ids as ints.  Raises OptionError for what is no id of the vocabulary."""
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
    rows = as_list(name, rows)
    if any(hasattr(row, "__index__") and not isinstance(row, np.ndarray) for row in rows):
        raise OptionError(f"{name} must be a list of lists of token ids: write [[...]] for one.")
    return [checked_ids(f"{name}[{i}]", row, vocab_size) for i, row in enumerate(rows)]
