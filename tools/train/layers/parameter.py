"""Parameters: named views into one flat buffer, so that optimizer and workers see one vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tools.train.ops import Array

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Parameter:
    """One array of weights and, when training, the array its gradient is added to."""

    name: str
    value: Array
    grad: Array = None


class Parameters(Mapping[str, Parameter]):
    """All parameters of a model, views of ``buffer[n]`` (and of ``grad_buffer[n]``)."""

    def __init__(self, shapes: Shapes, buffer: Array, grad_buffer: Array = None) -> None:
        n = count(shapes)
        if buffer.shape != (n,):
            raise ValueError(f"the model has {n} parameters, the buffer's shape is {buffer.shape}")
        self.buffer, self.grad_buffer = buffer, grad_buffer
        self._by_name: dict[str, Parameter] = {}
        start = 0
        for name, shape in shapes.items():
            part = slice(start, start + math.prod(shape))
            grad = None if grad_buffer is None else grad_buffer[part].reshape(shape)
            self._by_name[name] = Parameter(name, buffer[part].reshape(shape), grad)
            start = part.stop

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def count(shapes: Shapes) -> int:
    """Number of scalars in parameters of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())
