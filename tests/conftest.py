"""Fixtures shared by the suites, and which engine is under test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sentence_pairs import PAIRS

if TYPE_CHECKING:
    import s2s_infer
    from tools.train.vocabulary import Vocabulary

os.environ["HF_HUB_OFFLINE"] = "1"  # the reference libraries only see local folders
# In the background of a shell script SIGINT is ignored, and so it would be in the tests' processes.
signal.signal(signal.SIGINT, signal.default_int_handler)

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_report_header() -> str:
    try:
        from s2s_infer import _core
    except ImportError as error:  # the trainer's tests can run without the engine
        return f"s2s_infer._core cannot be imported: {error}"
    return f"{_core.__file__}, SIMD levels: {' '.join(_core.ISA_NAMES)}"


@pytest.fixture(scope="session")
def model() -> Iterator[s2s_infer.Model]:
    """The built-in zh <-> en model."""
    import s2s_infer

    with s2s_infer.load() as model:
        yield model


@pytest.fixture(scope="session")
def tiny() -> Iterator[s2s_infer.Model]:
    """A tiny random model without tokenizer: ids in, ids out."""
    import s2s_infer

    with s2s_infer.load(FIXTURES / "parity" / "relu-tied") as model:
        yield model


@pytest.fixture(scope="session")
def text_model() -> Iterator[s2s_infer.Model]:
    """Random weights with a real tokenizer."""
    import s2s_infer

    with s2s_infer.load(FIXTURES / "checkpoints" / "marian-tiny") as model:
        yield model


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trainer's train.tsv and valid.tsv."""
    directory = tmp_path_factory.mktemp("data")
    lines = [f"{zh}\t{en}\tattribution\n" for zh, en in PAIRS]
    (directory / "train.tsv").write_text("".join(lines), encoding="utf-8")
    (directory / "valid.tsv").write_text("".join(lines[:4]), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """The trainer's vocabulary of these pairs."""
    from tools.train.vocabulary import Vocabulary, train_vocabulary

    directory = tmp_path_factory.mktemp("vocabulary")
    train_vocabulary([s for pair in PAIRS for s in pair], directory, 57, character_coverage=1.0)
    return Vocabulary(directory)
