"""Fixtures shared by the suites, and which engine is under test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import s2s_infer

SENTENCES = ["今天天气很好", "今天天气很好。", "我喜欢学习。", "你叫什么名字？", "The weather is nice today."]


def pytest_report_header() -> list[str]:
    from s2s_infer import _core

    return [f"s2s_infer {s2s_infer.__version__}: {_core.__file__}", f"SIMD levels: {_core.ISA_NAMES}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of the `reference` group are the only ones that may import torch, transformers, ..."""
    if "reference" in (config.getoption("-m") or "").replace("not reference", ""):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def model() -> Iterator[s2s_infer.Model]:
    """The built-in zh <-> en model."""
    with s2s_infer.load() as model:
        yield model


@pytest.fixture(scope="session")
def tiny() -> Iterator[s2s_infer.Model]:
    """A tiny random model without tokenizer: ids in, ids out."""
    with s2s_infer.load(Path(__file__).parent / "fixtures" / "parity" / "relu-tied") as model:
        yield model
