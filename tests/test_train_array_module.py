"""The trainer runs on another array module than numpy, as CuPy is one.

No GPU is needed: the stand-in computes with numpy, but like CuPy it refuses to mix its arrays with
numpy's. So whatever passes here sends every array to the device before it is used there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("tqdm")

from tools.train import ops as reference
from tools.train.checkpoint import load_weights
from tools.train.config import TrainConfig
from tools.train.layers.parameter import Parameters
from tools.train.loop import Trainer
from tools.train.model import parameter_shapes
from tools.train.vocabulary import train_vocabulary

PAIRS = [("今天天气很好。", "The weather is nice."), ("他来了。", "He came."), ("你好！", "Hello!")]


def refuse_host(value: Any) -> None:
    if isinstance(value, (tuple, list)):
        for part in value:
            refuse_host(part)
    elif type(value) is np.ndarray and value.ndim > 0:
        raise TypeError("implicit conversion of a numpy array to a device array")


def on_host(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(on_host(part) for part in value)
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def on_device(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(on_device(part) for part in value)
    return value.view(DeviceArray) if isinstance(value, np.ndarray) else value


class DeviceArray(np.ndarray):
    """An array that only meets its own kind."""

    def get(self) -> np.ndarray:
        return np.array(self.view(np.ndarray))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        for value in (*inputs, *kwargs.values()):
            refuse_host(value)
        kwargs = {name: on_host(value) for name, value in kwargs.items()}
        return on_device(getattr(ufunc, method)(*(on_host(x) for x in inputs), **kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            refuse_host(value)
        kwargs = {name: on_host(value) for name, value in kwargs.items()}
        return on_device(function(*(on_host(x) for x in args), **kwargs))

    def __getitem__(self, key: Any) -> Any:
        refuse_host(key)
        return on_device(self.view(np.ndarray)[on_host(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        refuse_host(key)
        refuse_host(value)
        self.view(np.ndarray)[on_host(key)] = on_host(value)


class DeviceModule(ModuleType):
    """numpy's functions, whose arrays are on the device; `asarray` sends one there."""

    def __getattr__(self, name: str) -> Any:
        member = getattr(np, name)
        if inspect.isclass(member) or isinstance(member, np.ufunc) or not callable(member):
            return member

        def function(*args: Any, **kwargs: Any) -> Any:
            return on_device(member(*args, **kwargs))

        return function


@pytest.fixture
def device() -> Iterator[None]:
    reference.use_array_module(DeviceModule("device"))
    yield
    reference.use_array_module(np)


def train(directory: Path, out: Path) -> Parameters:
    config = TrainConfig(
        data=str(directory), vocab=str(directory / "vocab"), out=str(out),
        d_model=16, d_ffn=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, epochs=2,
        batch_tokens=20, warmup_steps=4, ema_decay=0.9, subword_alpha=0.2, rdrop_alpha=1.0,
        activation="gelu", workers=1, ops="numpy",
    )  # fmt: skip
    Trainer(config).run()
    model_config, buffer = load_weights(out / "epoch-0002.safetensors")
    return Parameters(parameter_shapes(model_config), buffer)


def test_stand_in_refuses_numpy_arrays() -> None:
    array = np.ones(3).view(DeviceArray)
    for mix in (
        lambda: array + np.ones(3),
        lambda: array[np.array([0, 1])],
        lambda: np.where(array > 0, array, np.ones(3)),
        lambda: np.matmul(array, np.ones(3)),
    ):
        with pytest.raises(TypeError, match="implicit conversion"):
            mix()


def test_training_on_another_array_module(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Training, validation with decoding and saving: the same weights as on numpy."""
    text = "".join(f"{zh}\t{en}\n" for zh, en in PAIRS)
    for name in ("train.tsv", "valid.tsv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    train_vocabulary([s for pair in PAIRS for s in pair], tmp_path / "vocab", 31, 1.0)
    want = train(tmp_path, tmp_path / "numpy")
    request.getfixturevalue("device")
    got = train(tmp_path, tmp_path / "device")
    for name, parameter in want.items():
        # the gradient of this bias is zero but for rounding, which Adam scales up
        if not name.endswith("k_proj.bias"):
            assert np.abs(got[name].value - parameter.value).max() < 1e-5, name
