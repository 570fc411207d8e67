"""The class that config.json names decides what is computed; another class is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity_families as families
import s2s_infer
from checkpoint_files import TINY, edit_json, refusal
from s2s_infer.errors import UnsupportedError
from s2s_infer.loaders import FAMILIES, load_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
OTHERS = {
    "marian": ("MarianForCausalLM",),
    "bart": ("BartForSequenceClassification", "BartForQuestionAnswering", "BartForCausalLM"),
    "mbart": ("MBartForCausalLM", "MBartForSequenceClassification", "BartForConditionalGeneration"),
    "m2m_100": ("NllbMoeForConditionalGeneration",),
    "pegasus": ("PegasusForCausalLM",),
    "t5": ("T5ForSequenceClassification", "T5ForTokenClassification", "T5ForQuestionAnswering"),
    "mt5": ("MT5ForSequenceClassification", "T5ForConditionalGeneration"),
    "umt5": ("UMT5ForTokenClassification",),
    "t5gemma": ("T5GemmaForSequenceClassification", "T5GemmaForTokenClassification"),
    "gpt2": ("GPT2DoubleHeadsModel", "GPT2ForSequenceClassification"),
    "gpt_bigcode": ("GPTBigCodeForTokenClassification",),
    "llama": ("LlamaForSequenceClassification", "LlamaForQuestionAnswering"),
    "deepseek_v2": ("DeepseekV2ForSequenceClassification",),
    "deepseek_v3": ("DeepseekV3ForTokenClassification",),
    "bert": ("BertLMHeadModel", "BertForTokenClassification", "BertForNextSentencePrediction"),
    "roberta": ("RobertaForCausalLM", "RobertaForMultipleChoice"),
    "distilbert": ("DistilBertForQuestionAnswering",),
}
ENCODERS = {
    "T5EncoderModel": ("t5", "t5-odd-untied"),
    "MT5EncoderModel": ("mt5", "mt5-odd"),
    "UMT5EncoderModel": ("umt5", "umt5-odd-untied"),
    "T5GemmaEncoderModel": ("t5gemma", "t5gemma-odd-untied"),
}
SHAPES = {shape.name: shape for shape in (*families.SMALL, *families.LARGE)}


def folder_of(family: str, path: Path, **changes: Any) -> Path:
    """A copy of a family's fixture with other keys in its config.json."""
    folders = {
        "marian": TINY,
        "bert": FIXTURES / "encoders" / "BertModel-24",
        "roberta": FIXTURES / "encoders" / "RobertaModel-24",
        "distilbert": FIXTURES / "encoders" / "DistilBertModel-24",
    }
    folder = folders.get(family, FIXTURES / "families" / family)
    shutil.copytree(folder, path, dirs_exist_ok=True)
    edit_json(path / "config.json", **changes)
    return path


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in OTHERS.items() for name in names]
)
def test_another_class_is_refused(family: str, name: str, tmp_path: Path) -> None:
    folder = folder_of(family, tmp_path, architectures=[name])
    message = refusal(lambda: load_checkpoint(folder))
    assert f"sets architectures to ['{name}'], but of {family} models this build" in message


@pytest.mark.parametrize(
    "value", ["MarianMTModel", {"MarianMTModel": 1}, 7, [None], [["MarianMTModel"]], [[]], [{}]]
)
def test_architectures_that_are_no_list_of_one_name(value: Any, tmp_path: Path) -> None:
    folder = folder_of("marian", tmp_path, architectures=value)
    assert "sets architectures to" in refusal(lambda: load_checkpoint(folder))


def test_of_two_classes_none_is_chosen(tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path, architectures=["BertModel", "BertForMaskedLM"])
    assert "sets architectures to" in refusal(lambda: load_checkpoint(folder))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    assert "has adapter_config.json" in refusal(lambda: load_checkpoint(folder))


@pytest.mark.parametrize("value", [None, []])
def test_without_a_name_the_model_type_decides(value: Any, tmp_path: Path) -> None:
    folder = folder_of("bart", tmp_path)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["architectures"] = value
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_checkpoint(folder).config.has_decoder


def test_a_class_without_output_matrix_generates_if_it_is_tied(tmp_path: Path) -> None:
    whole = load_checkpoint(folder_of("bart", tmp_path / "whole")).tensors
    base = load_checkpoint(
        folder_of("bart", tmp_path / "base", architectures=["BartModel"])
    ).tensors
    assert base.keys() == whole.keys()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"architectures": ["LlamaModel"]}),
        ("t5", {"architectures": ["T5Model"], "tie_word_embeddings": False}),
        ("gpt2", {"architectures": ["GPT2Model"], "tie_word_embeddings": False}),
    ],
)
def test_an_untied_class_without_output_matrix_is_refused(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = folder_of(family, tmp_path, **changes)
    message = refusal(lambda: load_checkpoint(folder))
    assert "a class without output matrix" in message and FAMILIES[family][0] in message


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_of_a_whole_model(name: str, tmp_path: Path) -> None:
    """In a file that has the decoder too, which is left out."""
    family = ENCODERS[name][0]
    rows = families.sources(SHAPES[family], 6)
    with s2s_infer.load(folder_of(family, tmp_path / "whole")) as whole:
        expected = [array.tobytes() for array in whole.encode_ids(rows)]
    folder = folder_of(family, tmp_path / "encoder", architectures=[name])
    with s2s_infer.load(folder) as model:
        assert [array.tobytes() for array in model.encode_ids(rows)] == expected
        assert not model.config.has_decoder and model.info()["weights"] > 0
        for call in (model.generate_ids, lambda ids: model.score(ids, ids)):
            with pytest.raises(UnsupportedError, match="encoder alone"):
                call(rows)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    ("name", "base"), [(name, base) for name, bases in ENCODERS.items() for base in bases]
)
def test_live_encoders(name: str, base: str, dtype: str, tmp_path: Path) -> None:
    import torch
    import transformers

    from s2s_infer.formats.native import save_native

    shape = SHAPES[base]
    settings = dict(shape.config)
    if "Gemma" in name:
        settings["is_encoder_decoder"] = False
    model_class = getattr(transformers, name)
    torch.manual_seed(7)
    reference = model_class(model_class.config_class(**settings)).eval()
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            families.randomize(key, parameter, shape)
    reference.save_pretrained(tmp_path)
    reference = model_class.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rows = families.sources(shape, 50)
    with torch.no_grad():
        expected = [
            reference(input_ids=torch.tensor([row])).last_hidden_state[0].numpy() for row in rows
        ]
    save_native(load_checkpoint(tmp_path, dtype), tmp_path / "model.s2s")
    with (
        s2s_infer.load(tmp_path, dtype=dtype) as model,
        s2s_infer.load(tmp_path / "model.s2s") as native,
    ):
        found = model.encode_ids(rows)
        same = [array.tobytes() for array in native.encode_ids(rows)]
    assert same == [array.tobytes() for array in found]
    for ours, theirs in zip(found, expected, strict=True):
        if dtype == "float32":
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
        else:  # root mean squares
            tolerance = {"bfloat16": 0.04, "int8": 0.2}[dtype]
            assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)
