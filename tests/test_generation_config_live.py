"""Every key of generation_config.json: the ids of transformers, or a refusal.

`generate` is called without options on both sides, so that the file decides everything; but for
`repetition_stop`, which transformers does not have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config_cases
import parity_families as families
import s2s_infer
from s2s_infer.errors import ModelError, S2SError

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]
N_SOURCES = 4
BASE = {"max_new_tokens": 12}
BEAMS = {"num_beams": 3}
VALUES: dict[str, tuple[Any, ...]] = {
    "max_length": (2, 3, 9, 20),
    "max_new_tokens": (1, 5, 20),
    "min_length": (1, 7, 12),
    "min_new_tokens": (1, 7, 12),
    "early_stopping": (True, "never"),
    "num_beams": (2, 5),
    "use_cache": (False, True),
    "cache_implementation": ("dynamic", "static", "quantized"),
    "temperature": (0.5,),
    "top_k": (1, 5),
    "top_p": (0.5,),
    "min_p": (0.2,),
    "top_h": (0.5,),
    "typical_p": (0.5,),
    "epsilon_cutoff": (0.1,),
    "eta_cutoff": (0.1,),
    "repetition_penalty": (0.7, 1.5),
    "encoder_repetition_penalty": (0.7, 1.5),
    "length_penalty": (-1.0, 0.0, 0.5, 2.0),
    "no_repeat_ngram_size": (1, 2, 3),
    "encoder_no_repeat_ngram_size": (1, 2),
    "bad_words_ids": ([[5], [7, 9]], [[8]]),
    "renormalize_logits": (True,),
    "forced_bos_token_id": (6, None),
    "forced_eos_token_id": (2, [2, 5], None),
    "remove_invalid_values": (True,),
    "exponential_decay_length_penalty": ([3, 1.5],),
    "suppress_tokens": ([4, 5, 6, 7, 8], []),
    "begin_suppress_tokens": ([4, 5, 6, 7, 8],),
    "forced_decoder_ids": ([[1, 9], [2, 12]],),
    "sequence_bias": ([[[5], -10.0]],),
    "token_healing": (True,),
    "guidance_scale": (1.5,),
    "watermarking_config": ({"greenlist_ratio": 0.25, "bias": 2.0},),
    "stop_strings": (["a"],),
    "num_return_sequences": (2,),
    "output_scores": (True,),
    "return_dict_in_generate": (False,),
    "pad_token_id": (3,),
    "bos_token_id": (7,),
    "eos_token_id": (5, [2, 5, 9], [11]),
    "decoder_start_token_id": (7, [7]),
    "prompt_lookup_num_tokens": (3,),
    "penalty_alpha": (0.6,),
    "dola_layers": ("low", [0]),
    "diversity_penalty": (0.5,),
    "num_beam_groups": (3,),
    "force_words_ids": ([[5]],),
    "prefill_chunk_size": (2,),
    "use_mtp": (True,),
    "max_time": (9.0,),
    "force_bos_token_to_be_generated": (True,),
}
FAMILIES = ("marian", "bart", "m2m_100", "t5", "gpt2", "llama")
Opened = tuple[families.Shape, Path, Any, dict[str, Any]]


@pytest.fixture(scope="module", params=FAMILIES)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    shape = config_cases.GENERATORS[request.param]
    folder = tmp_path_factory.mktemp(shape.name)
    families.make_checkpoint(shape, folder)
    base = json.loads((folder / "generation_config.json").read_text("utf-8"))
    needed = {k: v if k != "suppress_tokens" else [0, 1, 3] for k, v in shape.options.items()}
    yield shape, folder, families.open_reference(shape, folder), {**base, **needed, **BASE}


def cases() -> Iterator[dict[str, Any]]:
    for key, values in VALUES.items():
        for value in values:
            yield {key: value}
            yield {**BEAMS, key: value}
    yield {**BEAMS, "min_length": 6, "length_penalty": 2.0, "no_repeat_ngram_size": 2}
    yield {**BEAMS, "num_return_sequences": 3, "early_stopping": True, "repetition_penalty": 1.3}
    yield {"forced_bos_token_id": 6, "min_new_tokens": 4, "bad_words_ids": [[6, 7]]}
    yield {**BEAMS, "num_beam_groups": 3, "diversity_penalty": 0.5}
    yield {"max_length": 6, "max_new_tokens": 3, "min_length": 4, "min_new_tokens": 2}


def reference(model: Any, shape: families.Shape, folder: Path, rows: list[list[int]]) -> Any:
    """What transformers generates by the file alone, without start and end token."""
    import torch
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig.from_pretrained(folder)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    found = []
    for row in rows:
        ids = torch.tensor([row])
        with torch.no_grad():
            output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
        sequences = getattr(output, "sequences", output).tolist()
        n = len(row) if shape.continues else 1
        found.append([_until(sequence[n:], ends) for sequence in sequences])
    return found


def _until(ids: list[int], ends: list[int]) -> list[int]:
    return next((ids[:i] for i, token in enumerate(ids) if token in ends), ids)


def test_every_key_is_followed_or_refused(opened: Opened) -> None:
    shape, folder, model, base = opened
    rows = [row for row in families.sources(shape, 3 * N_SOURCES) if len(row) > 3][:N_SOURCES]
    wrong, n = [], {"the same": 0, "refused": 0, "refused by transformers": 0}
    for case in cases():
        values = {key: value for key, value in {**base, **case}.items() if value is not None}
        if "max_length" in case and "max_new_tokens" not in case:
            del values["max_new_tokens"]
        (folder / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
        try:
            with s2s_infer.load(folder, threads=1) as ours:
                found = [
                    [list(h.token_ids) for h in result.hypotheses]
                    for result in ours.generate_ids(rows, repetition_stop=0)
                ]
        except (ModelError, S2SError) as error:
            assert str(error).endswith(".") and any(key in str(error) for key in case), error
            n["refused"] += 1
            print("refused", case, error)
            continue
        try:
            expected = reference(model, shape, folder, rows)
        except Exception as error:
            n["refused by transformers"] += 1
            print("refused by transformers alone", case, repr(error)[:150])
            continue
        n["the same"] += found == expected
        if found != expected:
            i = next(i for i in range(len(rows)) if found[i] != expected[i])
            wrong.append(f"{case}, source {i}: {found[i]}, not {expected[i]}")
    print(shape.name, n)
    assert not wrong, "\n".join(wrong)
    assert n["the same"] >= 60
