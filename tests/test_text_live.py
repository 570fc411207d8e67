"""Text in, text out, family by family: what transformers' tokenizer and model make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import parity_families
import s2s_infer
from texts import texts
from tokenizer_cases import CASES, open_reference, save_modern

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

N_TEXTS = 15
TOKENIZERS = {case.name: case for case in CASES}
OLD = ("m2m100", "byt5")  # kinds without a tokenizer.json
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # tokenizer -> parity shape, our options, transformers' options by token
    "bart": ("bart", {}, {"forced_bos_token_id": "<s>"}),
    "mbart": ("mbart", {"to": "de_DE"}, {"decoder_start_token_id": "de_DE"}),
    "mbart50": ("mbart", {"to": "en_XX"}, {"forced_bos_token_id": "en_XX"}),
    "m2m100": ("m2m_100", {"to": "zh"}, {"forced_bos_token_id": "__zh__"}),
    "nllb": ("m2m_100", {"to": "fra_Latn"}, {"forced_bos_token_id": "fra_Latn"}),
    "nllb-legacy": ("m2m_100", {"to": "deu_Latn"}, {"forced_bos_token_id": "deu_Latn"}),
    "pegasus": ("pegasus", {}, {}),
    "t5": ("t5", {}, {}),
    "byt5": ("t5", {}, {}),
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_texts_become_the_texts_of_transformers(name: str, tmp_path: Path) -> None:
    from dataclasses import replace

    import torch

    case = TOKENIZERS[name]
    shape_name, ours, theirs = FAMILIES[name]
    (tmp_path / "old").mkdir()
    case.write(tmp_path / "old")
    folder = tmp_path / "old"
    if name not in OLD:
        folder = tmp_path / "new"
        save_modern(case, tmp_path / "old", folder)
    tokenizer = open_reference(case, folder)
    small = next(shape for shape in parity_families.SMALL if shape.name == shape_name)
    config = {**small.config, "vocab_size": len(tokenizer), "max_position_embeddings": 400}
    if name == "mbart50":
        config["decoder_start_token_id"] = 2
    shape = replace(small, name=name, config=config)
    parity_families.make_checkpoint(shape, folder)
    reference = parity_families.open_reference(shape, folder)
    options = {key: tokenizer.convert_tokens_to_ids(token) for key, token in theirs.items()}
    given = {**ours, **case.options}
    forced = {"forced_bos_token_id": 0} if name == "bart" else {}
    samples = [text for text in texts(300, seed=11) if text.strip() and len(text) < 150][:N_TEXTS]
    with s2s_infer.load(folder) as model:
        for beams in (1, 4):
            limits: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 12}
            if shape_name == "m2m_100":  # see parity_families
                limits["suppress_tokens"] = [1]
            found = model.translate(samples, **given, **forced, **limits)
            for text, translation in zip(samples, found, strict=True):
                inputs = tokenizer(text, return_tensors="pt")
                with torch.no_grad():
                    ids = reference.generate(
                        input_ids=inputs["input_ids"],
                        attention_mask=inputs["attention_mask"],
                        do_sample=False,
                        **limits,
                        **options,
                    )
                assert translation == tokenizer.decode(ids[0], skip_special_tokens=True), text
