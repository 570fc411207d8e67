"""Hugging Face directories become the core's packed tensors, exactly, or a clear ModelError."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from checkpoint_files import (
    CHECKPOINTS,
    TINY,
    Array,
    assert_same_tensors,
    bfloat16_bits,
    edit_json,
    raw_file,
    read_raw,
    tiny_copy,
    unpacked,
)
from s2s_infer import positions
from s2s_infer.config_enums import Activation, NormPlace, Positions
from s2s_infer.errors import ModelError
from s2s_infer.loaders import Checkpoint, load_checkpoint

D, ENCODER_HEADS, DECODER_HEADS = 32, 4, 2
N_TOKENS = len(json.loads((TINY / "vocab.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint(TINY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_copy(tmp_path)


# ---- the description ---------------------------------------------------------------------------


def test_the_description_of_marian(tiny: Checkpoint) -> None:
    config = tiny.config
    assert (config.vocab_size, config.source_vocab_size, config.d_model) == (N_TOKENS, N_TOKENS, D)
    assert config.output_bias
    for stack, n_heads, d_ffn in (
        (config.encoder, ENCODER_HEADS, 40),
        (config.decoder, DECODER_HEADS, 24),
    ):
        assert (stack.n_layers, stack.n_heads, stack.n_kv_heads) == (2, n_heads, n_heads)
        assert (stack.d_head, stack.d_ffn) == (D // n_heads, d_ffn)
        assert stack.activation is Activation.SILU and stack.norm_place is NormPlace.POST
        assert not stack.embed_norm and not stack.final_norm
        assert stack.positions is Positions.SINUSOIDAL_HALVES and stack.max_positions == 64
        assert stack.embed_scale == math.sqrt(D) and stack.norm_eps == 1e-5
        assert stack.attention_scale == (D // n_heads) ** -0.5 and stack.window == 0
    assert tiny.family == "marian" and tiny.dtype == "float32" and tiny.path == TINY
    assert tiny.missing_tokenizer is None


def test_the_roles_and_the_decoding_defaults(tiny: Checkpoint) -> None:
    special = tiny.special_tokens
    pad = N_TOKENS - 1
    assert (special.start, special.end, special.padding, special.unknown) == (pad, (0,), pad, 1)
    assert special.languages == {"en": 2, "zh": 3}
    assert special.bos is special.mask is special.classification is special.separation is None
    generation = tiny.generation
    assert generation.num_beams == 2 and generation.max_length == 64
    assert generation.bad_words_ids == ((pad,),) and generation.eos_token_id == (0,)
    assert generation.forced_eos_token_id == (0,) and generation.decoder_start_token_id == pad


def test_an_old_directory_has_its_decoding_defaults_in_its_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", num_beams=6, max_length=50, bad_words_ids=[[5]])
    generation = load_checkpoint(folder).generation
    assert (generation.num_beams, generation.max_length) == (6, 50)
    assert generation.bad_words_ids == ((5,),) and generation.eos_token_id == (0,)


# ---- the tensors -------------------------------------------------------------------------------


def expected_heads(weight: Array, n_heads: int, d_head: int) -> Array:
    """Rows of a projection with each head padded by zero rows to 16."""
    dh = -(-d_head // 16) * 16
    result = np.zeros((n_heads * dh, *weight.shape[1:]), np.float32)
    for h in range(n_heads):
        result[h * dh : h * dh + d_head] = weight[h * d_head : (h + 1) * d_head]
    return result


def test_every_tensor_is_where_the_core_looks_for_it(tiny: Checkpoint) -> None:
    theirs = {name: array for name, (_, array) in read_raw(TINY / "model.safetensors").items()}
    ours = dict(tiny.tensors)

    def take(name: str, expected: Array) -> None:
        array = ours.pop(name)
        assert array.dtype == np.float32 and array.flags.c_contiguous
        if array.ndim == 3:
            assert array.ctypes.data % 64 == 0
            array = unpacked(array, len(expected))
        elif name.endswith("bias") and array.shape != expected.shape:
            assert array.shape == (-(-len(expected) // 16) * 16,)
            assert not array[len(expected) :].any()
            array = array[: len(expected)]
        assert np.array_equal(array, expected), name

    def heads(name: str, part: str, n_heads: int) -> tuple[Array, Array]:
        weight, bias = (theirs.pop(f"{name}.{part}_proj.{kind}") for kind in ("weight", "bias"))
        d_head = D // n_heads
        return expected_heads(weight, n_heads, d_head), expected_heads(bias, n_heads, d_head)

    def out(ours_name: str, name: str, n_heads: int) -> None:
        weight = theirs.pop(f"{name}.out_proj.weight")
        take(f"{ours_name}.weight", expected_heads(weight.T, n_heads, D // n_heads).T)
        take(f"{ours_name}.bias", theirs.pop(f"{name}.out_proj.bias"))

    def plain(ours_name: str, name: str) -> None:
        for kind in ("weight", "bias"):
            take(f"{ours_name}.{kind}", theirs.pop(f"{name}.{kind}"))

    take("shared.embed", theirs.pop("model.shared.weight"))
    take("output.bias", theirs.pop("final_logits_bias")[0])
    for side, n_heads in (("encoder", ENCODER_HEADS), ("decoder", DECODER_HEADS)):
        take(f"{side}.positions", positions.sinusoidal_halves(64, D))
        for i in range(2):
            layer = f"model.{side}.layers.{i}"
            qkv = [heads(f"{layer}.self_attn", part, n_heads) for part in "qkv"]
            take(f"{side}.{i}.self_attn.qkv.weight", np.concatenate([w for w, _ in qkv]))
            take(f"{side}.{i}.self_attn.qkv.bias", np.concatenate([b for _, b in qkv]))
            out(f"{side}.{i}.self_attn.out", f"{layer}.self_attn", n_heads)
            plain(f"{side}.{i}.self_attn.norm", f"{layer}.self_attn_layer_norm")
            if side == "decoder":
                name = f"{layer}.encoder_attn"
                q = heads(name, "q", n_heads)
                kv = [heads(name, part, n_heads) for part in "kv"]
                take(f"{side}.{i}.cross_attn.q.weight", q[0])
                take(f"{side}.{i}.cross_attn.q.bias", q[1])
                take(f"{side}.{i}.cross_attn.kv.weight", np.concatenate([w for w, _ in kv]))
                take(f"{side}.{i}.cross_attn.kv.bias", np.concatenate([b for _, b in kv]))
                out(f"{side}.{i}.cross_attn.out", name, n_heads)
                plain(f"{side}.{i}.cross_attn.norm", f"{layer}.encoder_attn_layer_norm")
            plain(f"{side}.{i}.ffn.up", f"{layer}.fc1")
            plain(f"{side}.{i}.ffn.down", f"{layer}.fc2")
            plain(f"{side}.{i}.ffn.norm", f"{layer}.final_layer_norm")
    assert not ours and not theirs


def test_the_core_takes_the_tensors(tiny: Checkpoint) -> None:
    from s2s_infer import _core

    _core.Model(tiny.config.to_core(), tiny.tensors)
    with pytest.raises(ModelError, match=r"decoder\.1\.ffn\.norm\.bias"):
        lacking = {k: v for k, v in tiny.tensors.items() if k != "decoder.1.ffn.norm.bias"}
        _core.Model(tiny.config.to_core(), lacking)


def test_bfloat16_storage(tiny: Checkpoint) -> None:
    checkpoint = load_checkpoint(TINY, "bfloat16")
    assert checkpoint.dtype == "bfloat16" and list(checkpoint.tensors) == list(tiny.tensors)
    for name, array in checkpoint.tensors.items():
        full = tiny.tensors[name]
        if array.ndim == 3:
            assert array.dtype == np.uint16 and array.ctypes.data % 64 == 0
            assert np.array_equal(array, bfloat16_bits(full)), name
        else:
            assert array.dtype == np.float32 and np.array_equal(array, full)


def test_int8_storage(tiny: Checkpoint) -> None:
    """Each output has its own scale; a weight is off by at most half a step."""
    checkpoint = load_checkpoint(TINY, "int8")
    assert checkpoint.dtype == "int8"
    for name, full in tiny.tensors.items():
        array = checkpoint.tensors[name]
        if full.ndim != 3:
            assert np.array_equal(array, full), name
            continue
        n_tiles, n_in, _ = full.shape
        assert array.shape == (n_tiles, -(-n_in // 4), 16, 4) and array.dtype == np.int8
        assert array.ctypes.data % 64 == 0
        scale = checkpoint.tensors[f"{name}.scale"].reshape(n_tiles, 1, 16)
        rows = array.transpose(0, 1, 3, 2).reshape(n_tiles, -1, 16)
        assert not rows[:, n_in:].any()
        assert np.all(np.abs(rows[:, :n_in] * scale - full) <= 0.500001 * scale), name
        largest = np.abs(full).max(axis=1, keepdims=True)
        assert np.array_equal(scale, np.where(largest > 0, largest / np.float32(127), 1)), name
        sums = checkpoint.tensors[f"{name}.sum"]
        assert np.array_equal(sums, rows.sum(axis=1, dtype=np.int32).reshape(-1)), name


def test_int8_refuses_weights_that_are_not_finite(folder: Path) -> None:
    tensors = read_raw(folder / "model.safetensors")
    name = "model.encoder.layers.0.fc1.weight"
    dtype, array = tensors[name]
    broken = array.copy()
    broken[3, 5] = np.nan
    (folder / "model.safetensors").write_bytes(raw_file({**tensors, name: (dtype, broken)}))
    with pytest.raises(ModelError, match=r"encoder\.0\.ffn\.up\.weight cannot be int8.*finite"):
        load_checkpoint(folder, "int8")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_weights_of_other_dtypes(folder: Path, dtype: str, tiny: Checkpoint) -> None:
    tensors: dict[str, tuple[str, Array]] = {}
    rounded: dict[str, tuple[str, Array]] = {}
    for name, (_, array) in read_raw(TINY / "model.safetensors").items():
        if dtype == "BF16":
            stored: Array = bfloat16_bits(array)
            value = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            stored = array.astype({"F16": "<f2", "F64": "<f8"}[dtype])
            value = stored.astype(np.float32)
        tensors[name], rounded[name] = (dtype, stored), ("F32", value)
    (folder / "model.safetensors").write_bytes(raw_file(tensors))
    checkpoint = load_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(raw_file(rounded))
    assert_same_tensors(checkpoint, load_checkpoint(folder))
    if dtype == "F64":
        assert_same_tensors(checkpoint, tiny)


def write_shards(folder: Path, n: int = 3) -> dict[str, str]:
    """model.safetensors in n files and their index; returns the weight map."""
    tensors = read_raw(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % n + 1}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        (folder / file).write_bytes(raw_file(part))
    edit_json(folder / "model.safetensors.index.json", weight_map=weight_map, metadata={"x": 1})
    return weight_map


def test_weights_in_shards(folder: Path, tiny: Checkpoint) -> None:
    write_shards(folder)
    assert_same_tensors(load_checkpoint(folder), tiny)


def test_pytorch_weights(tmp_path: Path) -> None:
    source = CHECKPOINTS / "marian-torch"
    by_torch = load_checkpoint(source)
    shutil.copy(source / "config.json", tmp_path)
    shutil.copy(source / "expected.safetensors", tmp_path / "model.safetensors")
    assert_same_tensors(by_torch, load_checkpoint(tmp_path))
    assert by_torch.tokenizer is None
    missing = by_torch.missing_tokenizer or ""
    assert missing.startswith(f"{source} has no source.spm and no tokenizer.json")


def test_safetensors_go_before_pytorch(folder: Path, tiny: Checkpoint) -> None:
    shutil.copy(CHECKPOINTS / "marian-torch" / "pytorch_model.bin", folder)
    assert_same_tensors(load_checkpoint(folder), tiny)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_whatever_torch_saves_is_read_back(tmp_path: Path) -> None:
    import torch

    from s2s_infer.formats.torch_file import read_torch_file
    from s2s_infer.loaders.weights import to_float32

    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state = {
        "plain": torch.randn(3, 4),
        "transposed": torch.randn(3, 4).t(),
        "parameter": torch.nn.Parameter(torch.randn(5)),
        "slice": base[1:4, 2:7],
        "same storage": base,
        "expanded": torch.randn(1, 3).expand(1, 3),
        "half": torch.randn(4, 4).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "double": torch.randn(2, 2).double(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.5),
    }
    torch.save(state, tmp_path / "state.bin")
    read = read_torch_file(tmp_path / "state.bin")
    assert list(read) == list(state)
    for name, tensor in state.items():
        ours = to_float32(*read[name], name)
        assert np.array_equal(ours, tensor.detach().float().numpy()), name


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["plain", "sharded", "bfloat16", "float16", "bin"])
def test_whatever_transformers_saves_computes_the_same(how: str, tmp_path: Path) -> None:
    import torch
    from transformers import MarianMTModel

    import s2s_infer

    model = MarianMTModel.from_pretrained(TINY)
    if how in ("bfloat16", "float16"):
        model = model.to(getattr(torch, how))
    model.save_pretrained(tmp_path, max_shard_size="30KB" if how == "sharded" else "5GB")
    if how == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert (tmp_path / "model.safetensors.index.json").exists() == (how == "sharded")

    source, target = [5, 9, 20, 33, 41, 17, 0], [30, 8, 77, 12, 45, 0]
    start = model.config.decoder_start_token_id
    if how != "bin":  # a model that was rounded in memory has rounded positions too
        model = MarianMTModel.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(
            torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *target[:-1]]])
        ).logits[0]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None])[:, 0].numpy()
    with s2s_infer.load(tmp_path) as ours:
        score = ours.score([source], [target[:-1]])[0]
    assert np.allclose(score.token_logprobs, expected, atol=1e-4, rtol=0)
