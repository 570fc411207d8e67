"""Records behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from s2s_infer.records import record


@record
class Point:
    """A record."""

    x: int
    y: int = 2
    names: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is negative")


@dataclass(frozen=True)
class Twin:
    """What it should behave like."""

    x: int
    y: int = 2
    names: dict[str, int] = field(default_factory=dict)


@record
class Loose:
    """Compares in its own way, and so has no hash."""

    x: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loose)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((1,), {}), ((1, 3), {}), ((), {"x": 1}), ((1,), {"names": {"a": 1}}), ((1, 2, {}), {})],
)
def test_values_are_those_of_a_dataclass(arguments: Any, named: Any) -> None:
    ours, theirs = Point(*arguments, **named), Twin(*arguments, **named)
    assert asdict(ours) == asdict(theirs)
    assert repr(ours) == repr(theirs).replace("Twin", "Point")
    assert ours == Point(*arguments, **named)
    assert ours != theirs
    assert ours != Point(9)


@pytest.mark.parametrize(
    ("arguments", "named", "problem"),
    [
        ((), {}, "Point lacks a value for x"),
        ((1, 2, {}, 4), {}, "Point has 3 fields, but 4 values were given"),
        ((1,), {"z": 1}, "Point has no field 'z'"),
        ((1,), {"x": 1}, "Point got two values for the field 'x'"),
        ((), {"y": 1, "z": 1}, "Point has no field 'z'"),
    ],
)
def test_wrong_arguments(arguments: Any, named: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        Point(*arguments, **named)
    with pytest.raises(TypeError):
        Twin(*arguments, **named)


def test_a_record_cannot_change() -> None:
    point = Point(1)
    with pytest.raises(FrozenInstanceError, match="x cannot be set"):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="x cannot be deleted"):
        del point.x
    assert point == Point(1)


def test_each_record_has_a_default_of_its_own() -> None:
    first, second = Point(1), Point(1)
    first.names["a"] = 1
    assert second.names == {}


def test_hashes_follow_equality() -> None:
    @record
    class Pair:
        """Hashable fields only."""

        x: int
        y: int

    assert hash(Pair(1, 2)) == hash(Pair(1, 2)) != hash(Pair(2, 1))
    assert len({Pair(1, 2), Pair(1, 2), Pair(2, 1)}) == 2
    with pytest.raises(TypeError):
        hash(Loose(1))
    assert Loose(1) == Loose(2)


def test_the_tools_of_dataclasses_work() -> None:
    point = Point(1, 5)
    assert is_dataclass(point)
    assert [f.name for f in fields(point)] == ["x", "y", "names"]
    assert replace(point, x=4) == Point(4, 5)
    with pytest.raises(ValueError, match="negative"):
        replace(point, x=-1)
    for twin in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert twin == point
