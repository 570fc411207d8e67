"""Kinds of option values: how each is checked, and read from a command line."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from enum import Enum
from typing import Any

from .errors import OptionError
from .records import record

INT32_MAX = 2**31 - 1


@record
class OptionKind:
    """How the value of an option is checked and read from a command line."""

    metavar: str
    """What help texts call a value; empty for a yes/no flag."""
    check: Callable[[str, Any], Any]
    """(option name, value) -> normalised value, or an OptionError."""
    parse: Callable[[str], Any]
    """Text of a command line -> value, or a ValueError."""
    expected: str
    """Completes "must be ..."."""


def as_integer(value: Any) -> int | None:
    """`value` as an int, NumPy's integers too; None for what is no integer, and for bools."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:  # NumPy's arrays have an __index__ that most of them refuse
        return None


def _refuse(name: str, expected: str, value: object) -> OptionError:
    return OptionError(f"{name} must be {expected}, not {value!r}.")


def integer(minimum: int = 0, maximum: int = INT32_MAX, none: str = "") -> OptionKind:
    """Integers from minimum to maximum; `none` says what None means where it is allowed."""
    expected = f"an integer from {minimum} to {maximum}"
    or_none = f" or None ({none})" if none else ""

    def check(name: str, value: Any) -> int | None:
        if value is None and none:
            return None
        number = as_integer(value)
        if number is not None and minimum <= number <= maximum:
            return number
        raise _refuse(name, expected + or_none, value)

    return OptionKind("N", check, int, expected)


def number(minimum: float, maximum: float = float("inf"), above: bool = False) -> OptionKind:
    """Finite numbers from minimum (or above it) to maximum."""
    expected = f"a number {'above' if above else 'of at least'} {minimum:g}"
    if maximum == float("inf"):
        expected = "a finite number" if minimum == -maximum else expected
    else:
        expected += f" and at most {maximum:g}"

    def check(name: str, value: Any) -> float:
        if not isinstance(value, (bool, str, bytes)):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                raise _refuse(name, expected, value) from None
            in_range = (minimum < number if above else minimum <= number) and number <= maximum
            if in_range and abs(number) != float("inf"):
                return number
        raise _refuse(name, expected, value)

    return OptionKind("X", check, float, expected)


def boolean() -> OptionKind:
    def check(name: str, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise _refuse(name, "True or False", value)

    return OptionKind("", check, _parse_boolean, "true or false")


def _parse_boolean(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError(text) from None


def early_stopping() -> OptionKind:
    expected = 'True, False or "never"'

    def check(name: str, value: Any) -> bool | str:
        if isinstance(value, bool) or value == "never":
            result: bool | str = value
            return result
        raise _refuse(name, expected, value)

    def parse(text: str) -> bool | str:
        return text if text == "never" else _parse_boolean(text)

    return OptionKind("true|false|never", check, parse, "true, false or never")


def _check_ids(name: str, value: Any) -> tuple[int, ...]:
    """None, one id or a sequence of ids -> tuple."""
    if value is None:
        return ()
    if as_integer(value) is not None:
        value = (value,)
    if not isinstance(value, (str, bytes, Mapping)) and isinstance(value, Iterable):
        ids = tuple(as_integer(token) for token in value)
        if all(token is not None and 0 <= token <= INT32_MAX for token in ids):
            return tuple(token for token in ids if token is not None)
    raise _refuse(name, "a token id or a list of token ids", value)


def _parse_ids(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def ids() -> OptionKind:
    return OptionKind("ID[,ID...]", _check_ids, _parse_ids, "token ids separated by commas")


def id_lists() -> OptionKind:
    def check(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
        if value is None:
            return ()
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            lists = tuple(
                _check_ids(name, item)
                for item in value
                if isinstance(item, Iterable) and not isinstance(item, (str, bytes))
            )
            if len(lists) == len(value) and all(lists):
                return lists
        raise _refuse(name, "a list of non-empty lists of token ids", value)

    def parse(text: str) -> tuple[tuple[int, ...], ...]:
        return tuple(_parse_ids(part) for part in text.split(";"))

    expected = "sequences of token ids, commas inside a sequence and semicolons between them"
    return OptionKind("ID[,ID...][;...]", check, parse, expected)


def option(default: Any, kind: OptionKind, help: str, unit: str = "") -> Any:
    """A dataclass field whose metadata says how its value is checked and what it means."""
    return field(default=default, metadata={"kind": kind, "help": help, "unit": unit})


def jsonable(value: Any) -> Any:
    """`value` in plain JSON types."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value
