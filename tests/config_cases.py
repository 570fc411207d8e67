"""Every field of every family's config class, set to other values, beside transformers.

A case changes one key of a sound config, or two: before a model is made of it (`MADE`), or in
the config.json of a model that was saved (`EDITED`).  `outcome` says what the engine did: computed
the same as transformers, or refused; anything else is an AssertionError.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import parity_encoders
import parity_families

TOLERANCE = 1e-4
ABSENT = object()
MADE, EDITED = "made", "edited"
SAME, REFUSED, NO_MODEL = "the same", "refused", "no model in transformers"


@dataclass(frozen=True)
class Case:
    """Some keys of one config."""

    family: str
    when: str
    changes: tuple[tuple[str, Any], ...]
    """Keys, with a dot in the name for a key within, and their values."""

    def __str__(self) -> str:
        changes = (
            f"{key} = {'absent' if value is ABSENT else json.dumps(value)}"
            for key, value in self.changes
        )
        return f"{self.family}, {self.when}: {', '.join(changes)}"


_BY_NAME = {
    shape.name: shape
    for shape in (parity_families.MARIAN, *parity_families.SMALL, *parity_families.LARGE)
}
GENERATORS = {
    **{
        name: _BY_NAME[name]
        for name in ("marian", *(shape.name for shape in parity_families.SMALL))
    },
    "mistral": _BY_NAME["mistral-window"],
    "qwen2": _BY_NAME["qwen2"],
}
ENCODERS = {
    shape.architecture: shape
    for shape in parity_encoders.SMALL
    if shape.architecture
    in (
        "BertModel",
        "BertForMaskedLM",
        "RobertaForMaskedLM",
        "RobertaForSequenceClassification",
        "DistilBertForSequenceClassification",
    )
}
FAMILIES = (*GENERATORS, *ENCODERS)

_ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate",
    "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid",
    "silu", "swish", "tanh",
)  # fmt: skip
ROPE: tuple[dict[str, Any], ...] = (
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 0.9,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 1.3,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 16,
    },
    {"rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    {
        "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    },
)
_VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("activation_function", "hidden_act", "hidden_activation", "activation", "dense_act_fn"),
        _ACTIVATIONS,
    ),
    "feed_forward_proj": (*_ACTIVATIONS, *(f"gated-{name}" for name in _ACTIVATIONS)),
    "rope_parameters": ROPE,
    "rope_scaling": tuple(
        {("type" if key == "rope_type" else key): v for key, v in rope.items()} for rope in ROPE
    ),
    "layer_types": (
        ["full_attention", "sliding_attention"],
        ["sliding_attention", "full_attention"],
        ["full_attention"] * 2,
        ["sliding_attention"] * 2,
        ["chunked_attention"] * 2,
    ),
    "problem_type": ("regression", "single_label_classification", "multi_label_classification"),
    "sliding_window": (1, 3, 7, None),
    "n_inner": (None, 50),
    "q_lora_rank": (None, 9),
    "id2label": ({"0": "a", "1": "b"}, {"0": "a", "1": "b", "2": "c"}),
    "dtype": ("float16", "bfloat16", "float64"),
}
_ELSEWHERE: dict[str, Any] = {
    # Keys that no class of these families has (any more), but files have.
    "normalize_before": True, "normalize_embedding": False, "add_final_layer_norm": True,
    "add_bias_logits": True, "static_position_embeddings": True, "extra_pos_embeddings": 3,
    "n_special": 1, "position_embedding_type": "relative_key", "rotary_pct": 0.5,
    "rope_theta": 500.0, "partial_rotary_factor": 0.5,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "sliding_window": 3, "use_sliding_window": True, "attention_bias": True, "mlp_bias": True,
    "qkv_bias": False, "use_bias": False, "attn_logit_softcapping": 2.0, "logit_scale": 2.0,
    "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 3, "embedding_multiplier": 2.0,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_intermediate_size": 8,
    "is_moe": True, "pruned_heads": {"0": [1]}, "is_decoder": True, "is_encoder_decoder": None,
    "add_cross_attention": True, "cross_attention_hidden_size": 16, "head_dim": 24, "d_head": 24,
    "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "torch_dtype": "float16", "chunk_size_feed_forward": 3, "layer_norm_epsilon": 0.5,
    "layer_norm_eps": 0.5, "rms_norm_eps": 0.5, "norm_eps": 0.5, "embedding_size": 16,
    "tie_encoder_decoder": True, "tie_word_embeddings": False, "scale_embedding": True,
    "auto_map": {"AutoModel": "x--y.Z"},
}  # fmt: skip
_NEVER = {"transformers_version", "model_type", "_name_or_path", "architectures", "label2id"}
_UNRELATED = (
    "dropout", "layerdrop", "pdrop", "_prob", "init_std", "initializer_range", "initializer_factor",
    "use_cache", "return_dict", "output_hidden_states", "output_attentions", "dtype",
    "chunk_size_feed_forward", "problem_type", "id2label", "is_encoder_decoder", "is_decoder",
)  # fmt: skip
"""Ends of keys that are tried alone and not in pairs."""
KNOWN_DIFFERENCES = {("umt5", "tie_word_embeddings")}
"""UMT5 scales its output only where the key says so: docs/families.md."""
N_PAIRS = 40


def cases(family: str) -> Iterator[Case]:
    """Those of one of FAMILIES: each key alone, and some pairs of keys drawn at random."""
    found = _fields(family)
    singles = [
        (path, other)
        for path, value in found.items()
        for other in _others(path.split(".")[-1], value)
    ]
    found = {path: v for path, v in found.items() if (family, path) not in KNOWN_DIFFERENCES}
    singles = [single for single in singles if single[0] in found]
    for change in singles:
        yield Case(family, MADE, (change,))
    for path, value in found.items():
        yield Case(family, EDITED, ((path, ABSENT),))
        if isinstance(value, bool):
            yield Case(family, EDITED, ((path, None),))
            yield Case(family, EDITED, ((path, not value),))
    sides = ("encoder.", "decoder.") if family == "t5gemma" else ()
    for key, value in _ELSEWHERE.items():
        for path in (key, *(side + key for side in sides)):
            if path not in found and (family, path) not in KNOWN_DIFFERENCES:
                yield Case(family, EDITED, ((path, value),))
    rng = random.Random(family)
    singles = [single for single in singles if not single[0].endswith(_UNRELATED)]
    for _ in range(N_PAIRS):
        pair = rng.sample(singles, 2)
        if pair[0][0] != pair[1][0]:
            yield Case(family, MADE, tuple(pair))


def _fields(family: str) -> dict[str, Any]:
    """The keys of the family's config and their values in the sound one."""
    config = _config_class(family)(**_settings(family)).to_dict()
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key in ("encoder", "decoder"):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif key not in _NEVER:
            found[key] = value
    return {path: value for path, value in found.items() if path.split(".")[-1] not in _NEVER}


def _others(key: str, value: Any) -> Iterator[Any]:
    if key in _VALUES:
        yield from (other for other in _VALUES[key] if other != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from sorted({value + 1, value * 2, max(value // 2, 1)} - {value})
    elif key.endswith(_UNRELATED):
        yield 0.9
    elif isinstance(value, float):
        yield from {value * 8, value / 8} if value else {0.5}
    elif value is None:
        yield from (True, 2, 0.5)


def outcome(case: Case, folder: Path) -> tuple[str, str]:
    """(SAME, ""), (REFUSED, its message) or (NO_MODEL, why); AssertionError for anything else.

    Where transformers has no model, since it refuses the config or finds tensors missing, the
    engine must refuse too or be found to compute without them.
    """
    import s2s_infer
    from s2s_infer.errors import ModelError

    settings = _settings(case.family)
    if case.when == MADE:
        _set(settings, case.changes)
    try:
        _make(case.family, settings, folder)
    except Exception as error:
        return NO_MODEL, repr(error)
    if case.when == EDITED:
        file = folder / "config.json"
        config = json.loads(file.read_text("utf-8"))
        _set(config, case.changes)
        file.write_text(json.dumps(config), encoding="utf-8")
    try:
        model = s2s_infer.load(folder, threads=1)
    except ModelError as error:
        message = str(error)
        assert message.endswith((".", "?")) and "\n" not in message, message
        return REFUSED, message
    with model:
        theirs, why = _reference(case.family, folder)
        if theirs is None:
            return NO_MODEL, "the engine has one: " + why
        for array, expected in zip(_ours(case.family, model), theirs, strict=True):
            assert array.shape == expected.shape
            error = np.abs(array - expected).max() / np.abs(expected).max()
            assert error <= TOLERANCE, f"error {error:.1e}"
    return SAME, ""


def _set(settings: dict[str, Any], changes: tuple[tuple[str, Any], ...]) -> None:
    for path, value in changes:
        config = settings
        *outer, key = path.split(".")
        for name in outer:
            config[name] = dict(config[name])
            config = config[name]
        config[key] = value
        if value is ABSENT:
            del config[key]


def _settings(family: str) -> dict[str, Any]:
    if family in ENCODERS:
        return parity_encoders.config(ENCODERS[family])
    return dict(GENERATORS[family].config)


def _config_class(family: str) -> Any:
    import transformers

    return getattr(transformers, _architecture(family)).config_class


def _architecture(family: str) -> str:
    return family if family in ENCODERS else GENERATORS[family].model


def _make(family: str, settings: dict[str, Any], folder: Path) -> None:
    import torch

    if family in ENCODERS:
        parity_encoders.save_random(family, settings, folder)
        return
    shape = replace(GENERATORS[family], config=settings)
    with torch.no_grad():
        parity_families.make_checkpoint(shape, folder)


def _inputs(family: str) -> Any:
    if family in ENCODERS:
        return parity_encoders.sequences(ENCODERS[family], 3)
    shape = GENERATORS[family]
    rows = sorted(parity_families.sources(shape, 8), key=len)[::4]
    return [(row, parity_families.target(shape, i)) for i, row in enumerate(rows)]


def _reference(family: str, folder: Path) -> tuple[list[Any] | None, str]:
    """What transformers computes, or why it does not."""
    import torch
    import transformers

    torch.set_num_threads(1)
    model_class = getattr(transformers, _architecture(family))
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        return None, repr(error)
    if info["missing_keys"] or info["mismatched_keys"]:
        return None, f"it lacks {sorted(info['missing_keys'])[:3]} {info['mismatched_keys']}"
    model = model.eval()
    start = getattr(getattr(model, "generation_config", None), "decoder_start_token_id", None)
    if start is not None:  # what generate() starts with
        model.config.decoder_start_token_id = start
    try:
        if family in ENCODERS:
            arrays = parity_encoders.reference_of(model, family, _inputs(family))
        else:
            shape = GENERATORS[family]
            arrays = [
                parity_families.reference_forward(model, shape, *pair) for pair in _inputs(family)
            ]
    except Exception as error:
        return None, repr(error)
    return _flat(arrays), ""


def _ours(family: str, model: Any) -> list[Any]:
    if family in ENCODERS:
        found = parity_encoders.engine(model, _inputs(family))
        # a classifier's pooler has no output of its own in transformers
        kept = {"states", "logits"} if "For" in family else {"states", "pooler"}
        return _flat([{k: v for k, v in some.items() if k in kept} for some in found])
    shape = GENERATORS[family]
    return _flat([parity_families.engine_forward(model, shape, *pair) for pair in _inputs(family)])


def _flat(found: list[dict[str, Any]]) -> list[Any]:
    return [some[name] for some in found for name in sorted(some)]
