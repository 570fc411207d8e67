"""The article's example: plain gradient descent learns to copy 今天天气很好 without an error."""

from __future__ import annotations

import pytest

from tools.train import toy


def test_toy_learns_to_copy(capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.main() == 0
    out = capsys.readouterr().out
    assert [f"Act {n}" in out for n in range(1, 10)] == [True] * 9
    assert "今天天气很好  →  今 天 天 气 很 好 <eos>" in out
    assert "decoder reads  [1, 3, 4, 4, 5, 6, 7]" in out


def test_toy_cannot_copy_before_training() -> None:
    errors, _ = toy.copy_errors(toy.make_model(3), toy.make_batch(toy.SENTENCES))
    assert errors > 3
