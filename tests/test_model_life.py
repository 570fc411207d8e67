"""What a model is as an object: opened, described, pickled, closed, collected."""

from __future__ import annotations

import gc
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s2s_infer
from checkpoint_files import SHORT_TEXTS as TEXTS
from s2s_infer import Model, ModelError, OptionError, S2SError, _core
from s2s_infer.loaders import load_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINT = FIXTURES / "checkpoints" / "marian-tiny"  # random weights, real tokenizer


def test_kv_dtype() -> None:
    assert s2s_infer.load(CHECKPOINT).info()["kv_dtype"] == "float32"
    assert s2s_infer.load(CHECKPOINT, dtype="int8").info()["kv_dtype"] == "bfloat16"
    full = s2s_infer.load(CHECKPOINT, dtype="int8", kv_dtype="float32")
    narrow = s2s_infer.load(CHECKPOINT, kv_dtype="bfloat16")
    for model, name in ((full, "float32"), (narrow, "bfloat16")):
        copy = pickle.loads(pickle.dumps(model))
        assert model.info()["kv_dtype"] == copy.info()["kv_dtype"] == name

    # A rounding of 2^-9 of every key and value: seen, and no more than that.
    target = [3, 5, 4, 6, 3, 7, 5, 4]
    exact = s2s_infer.load(CHECKPOINT).trace([5, 6, 7, 0], target)
    rounded = narrow.trace([5, 6, 7, 0], target)
    assert np.array_equal(exact["encoder.output"], rounded["encoder.output"])
    difference = np.abs(exact["decoder.logits"] - rounded["decoder.logits"]).max()
    assert 0 < difference < 0.02 * np.abs(exact["decoder.logits"]).max()


def test_load_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        s2s_infer.load(tmp_path / "none")
    with pytest.raises(OptionError, match="dtype must be one of auto, float32, bfloat16, int8"):
        s2s_infer.load(CHECKPOINT, dtype="int3")
    with pytest.raises(OptionError, match="kv_dtype must be one of float32, bfloat16, not 'int8'"):
        s2s_infer.load(CHECKPOINT, kv_dtype="int8")
    with pytest.raises(OptionError, match=r"isa must be one of generic.* not 'mmx'"):
        s2s_infer.load(CHECKPOINT, isa="mmx")
    with pytest.raises(OptionError, match="threads must be from 1"):
        s2s_infer.load(CHECKPOINT, threads=0)


def test_isa_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2S_ISA", "generic")
    with s2s_infer.load(CHECKPOINT) as model:
        info = model.info()
    assert (info["isa"], info["isa_reason"]) == ("generic", "environment variable S2S_ISA")
    monkeypatch.setenv("S2S_ISA", "mmx")
    with pytest.raises(OptionError, match="environment variable S2S_ISA must be one of"):
        s2s_infer.load(CHECKPOINT)


def test_closed_model_says_so(text_model: Model) -> None:
    with s2s_infer.load(CHECKPOINT) as model:
        stream = model.stream("good", max_new_tokens=5)
        expected = model.translate("good", max_new_tokens=5)
    assert "closed" in repr(model)
    assert "".join(stream) == expected  # what runs ends normally
    for call in (
        lambda: model.translate("good"),
        lambda: model.generate_ids([[3, 0]]),
        lambda: model.encode(["good"]),
        lambda: model.score(["good"], ["good"]),
        lambda: model.trace("good"),
        lambda: model.info(),
    ):
        with pytest.raises(S2SError, match="closed"):
            call()
    model.close()


def test_a_call_that_began_before_the_model_was_closed_ends_normally(
    text_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may close it while the call looks whether the file has changed."""
    expected = text_model.translate("good", max_new_tokens=5)
    model = s2s_infer.load(CHECKPOINT)

    class Closing:
        def check_unchanged(self) -> None:
            model.close()

    closing: Any = Closing()
    monkeypatch.setattr(model, "_checkpoint", replace(model._checkpoint, file=closing))
    assert model.translate("good", max_new_tokens=5) == expected
    with pytest.raises(S2SError, match="closed"):
        model.translate("good")


def test_pickle_opens_the_same_file_again(text_model: Model) -> None:
    copy = pickle.loads(pickle.dumps(text_model))
    expected = text_model.generate(TEXTS, max_new_tokens=5)
    assert copy.generate(TEXTS, max_new_tokens=5) == expected


def test_info_is_complete_json(text_model: Model) -> None:
    info = json.loads(json.dumps(text_model.info()))
    assert info["family"] == "marian" and info["dtype"] == "float32"
    assert info["special_tokens"]["languages"] == dict(text_model.special_tokens.languages)
    assert info["threads"] >= 1 and info["threads_reason"] and info["weights"] > 0
    assert info["config"]["encoder"]["max_positions"] == 64


def test_public_names() -> None:
    assert set(s2s_infer.__all__) <= set(dir(s2s_infer))
    for name in s2s_infer.__all__:
        assert getattr(s2s_infer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        s2s_infer.nonsense  # noqa: B018


def test_pickled_results_have_their_text(text_model: Model) -> None:
    result = text_model.generate(["今天"], max_new_tokens=4)[0]
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert copy.text == result.text != ""
    assert replace(copy.hypotheses[0], score=1.0).text == result.text


@pytest.mark.parametrize("kind", ["session", "encoder"])
def test_collected_in_a_cycle(kind: str) -> None:
    """The collector frees a session before its model; a sanitizer sees where it does not."""
    checkpoint = load_checkpoint(FIXTURES / "parity" / "relu-tied")
    for _ in range(3):
        core = _core.Model(checkpoint.config.to_core(), checkpoint.tensors)
        made: Any
        if kind == "encoder":
            made = _core.Encoder(core, None, max_positions=8, max_tokens=8)
        else:
            made = _core.Session(
                core,
                None,
                max_rows=1,
                max_source_positions=8,
                max_target_positions=8,
                max_encoder_tokens=8,
            )
        made.set_record([made].append)
        del core, made
        assert gc.collect() > 0
