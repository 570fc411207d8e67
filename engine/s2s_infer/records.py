"""Immutable records.

A `record` is a dataclass, frozen, whose methods are these functions for all classes.  `dataclass`
itself writes and compiles source for each class: one millisecond for a class of 30 fields, and 15
for those on the way to a model's first token, half of what loading a small model takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda decorator: decorator


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Class decorator: as ``dataclass(frozen=True)``; `fields`, `replace` and `asdict` work too."""
    made: Any = dataclass(init=False, repr=False, eq=False)(cls)
    every = fields(made)
    made._names = tuple(f.name for f in every)
    made._defaults = {f.name: f.default for f in every if f.default is not MISSING}
    made._factories = {f.name: f.default_factory for f in every if f.default_factory is not MISSING}
    made.__init__, made.__repr__ = _init, _repr
    made.__setattr__, made.__delattr__ = _set, _delete
    if "__eq__" not in vars(cls):
        made.__eq__, made.__hash__ = _eq, _hash
    result: type[T] = made
    return result


def record_of(cls: type[T], values: dict[str, Any]) -> T:
    """A record of these values, which must be all of its fields and right: nothing is checked."""
    result = cls.__new__(cls)
    result.__dict__.update(values)
    return result


def _init(self: Any, *arguments: Any, **named: Any) -> None:
    values, names = self.__dict__, self._names
    values.update(self._defaults)
    for name, make in self._factories.items():
        if name not in named:
            values[name] = make()
    values.update(zip(names, arguments, strict=False))
    values.update(named)
    first = names[: len(arguments)]
    if len(arguments) > len(names) or values.keys() != set(names) or named.keys() & first:
        raise TypeError(_wrong_arguments(type(self), arguments, named))
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _wrong_arguments(cls: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
    names, first = cls._names, cls._names[: len(arguments)]
    if len(arguments) > len(names):
        return f"{cls.__name__} has {len(names)} fields, but {len(arguments)} values were given"
    for name in named:
        if name not in names:
            return f"{cls.__name__} has no field {name!r}"
        if name in first:
            return f"{cls.__name__} got two values for the field {name!r}"
    known = {*first, *named, *cls._defaults, *cls._factories}
    absent = [name for name in names if name not in known]
    return f"{cls.__name__} lacks a value for {', '.join(absent)}"


def _repr(self: Any) -> str:
    values = (f"{name}={getattr(self, name)!r}" for name in self._names)
    return f"{type(self).__qualname__}({', '.join(values)})"


def _eq(self: Any, other: object) -> Any:
    return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(tuple(getattr(self, name) for name in self._names))


def _set(self: Any, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"{type(self).__name__} is immutable: {name} cannot be set")


def _delete(self: Any, name: str) -> NoReturn:
    raise FrozenInstanceError(f"{type(self).__name__} is immutable: {name} cannot be deleted")
