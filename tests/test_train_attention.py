"""The trainer's kinds of attention: gradients, torch, exports that the engine computes alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentencepiece")

from test_train_gradients import (
    K_OFFSETS,
    Q_OFFSETS,
    check_all,
    check_attention,
    parameters_of,
    small_batch,
)
from tools.train import ops as reference
from tools.train.checkpoint import save_weights
from tools.train.expand import as_multi_head
from tools.train.layers.attention import Attention
from tools.train.layers.dropout import Dropout
from tools.train.layers.parameter import Parameters, count
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes
from tools.train.vocabulary import Vocabulary, train_vocabulary

ops = reference.load("numpy")
KINDS = {"mha": (0, 0), "gqa": (2, 0), "mqa": (1, 0), "mla": (0, 5)}
"""Kind -> n_kv_heads, kv_rank, for four heads."""


def config_of(kind: str, n_vocab: int = 12, d_model: int = 8) -> ModelConfig:
    n_kv_heads, kv_rank = KINDS[kind]
    config = ModelConfig(
        n_vocab, d_model=d_model, d_ffn=10, n_heads=4, n_encoder_layers=1, n_decoder_layers=2,
        max_positions=64, n_kv_heads=n_kv_heads, kv_rank=kv_rank,
    )  # fmt: skip
    assert config.attention == kind
    return config


def random_model(config: ModelConfig, dtype: type = np.float64, seed: int = 1) -> Model:
    shapes = parameter_shapes(config)
    parameters = Parameters(shapes, np.zeros(count(shapes), dtype), np.zeros(count(shapes), dtype))
    initialize(config, parameters, seed, depth_scaled=False)
    noise = np.random.default_rng(seed).normal(0, 0.1, parameters.buffer.shape)
    parameters.buffer += noise.astype(dtype)
    return Model(config, parameters, ops)


def layer_of(kind: str, rng: np.random.Generator, causal: bool) -> tuple[Attention, Parameters]:
    """An attention layer of width 8 with four heads."""
    n_kv_heads, kv_rank = KINDS[kind]
    d_kv = 2 * (n_kv_heads or 4)
    widths = {"q_proj": (8, 8), "out_proj": (8, 8)}
    widths |= {"k_proj": (kv_rank or 8, d_kv), "v_proj": (kv_rank or 8, d_kv)}
    if kv_rank:
        widths["kv_down_proj"] = (8, kv_rank)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (k, m) in widths.items():
        shapes |= {f"a.{name}.weight": (k, m), f"a.{name}.bias": (m,)}
    parameters = parameters_of(shapes, rng)
    parameters.buffer *= 0.4  # or softmax saturates and nothing has a gradient
    return Attention(ops, parameters, "a", 4, causal, n_kv_heads, kv_rank), parameters


@pytest.mark.parametrize("own", [True, False], ids=["self", "cross"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_layer_against_finite_differences(kind: str, own: bool) -> None:
    layer, parameters = layer_of(kind, np.random.default_rng(11), own)
    check_attention(layer, parameters, 8, own)


@pytest.mark.parametrize("kind", list(KINDS))
def test_model_against_finite_differences(kind: str) -> None:
    model, batch = random_model(config_of(kind)), small_batch(np.random.default_rng(2), 1)

    def run() -> tuple[float, Callable[[], None]]:
        logits, backward = model.forward(batch, Dropout(0.1, 0.2, 0.3, seed=7))
        loss = ops.softmax_xent(logits, batch.target_ids, 0.1, 1.0)[0]
        return loss, lambda: backward(logits)

    run()[1]()
    check_all(model.parameters, lambda: run()[0], n=4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_multi_head_model_that_it_equals(kind: str) -> None:
    model, batch = random_model(config_of(kind)), small_batch(np.random.default_rng(2), 1)
    config, buffer = as_multi_head(model.config, model.parameters.buffer)
    assert config.attention == "mha"
    equal = Model(config, Parameters(parameter_shapes(config), buffer), ops)
    np.testing.assert_allclose(equal.forward(batch)[0], model.forward(batch)[0], rtol=0, atol=1e-12)
    n = count(parameter_shapes(model.config))
    assert n == len(buffer) if kind == "mha" else n < len(buffer) or kind == "mla"


@pytest.mark.reference
@pytest.mark.parametrize("own", [True, False], ids=["self", "cross"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_layer_against_torch(kind: str, own: bool) -> None:
    """torch's scaled_dot_product_attention with enable_gqa, sequence by sequence."""
    import torch
    from torch.nn import functional

    rng = np.random.default_rng(5)
    layer, parameters = layer_of(kind, rng, own)
    x, dy = rng.normal(size=(9, 8)), rng.normal(size=(9, 8))
    memory, offsets = (x, Q_OFFSETS) if own else (rng.normal(size=(8, 8)), K_OFFSETS)
    y, backward = layer(x, Q_OFFSETS, memory, offsets, Dropout())
    dx, dmemory = backward(dy)

    weights = {n: torch.tensor(p.value, requires_grad=True) for n, p in parameters.items()}
    tx = torch.tensor(x, requires_grad=True)
    tm = tx if own else torch.tensor(memory, requires_grad=True)

    def linear(z: torch.Tensor, name: str) -> torch.Tensor:
        return z @ weights[f"a.{name}.weight"] + weights[f"a.{name}.bias"]

    latent = linear(tm, "kv_down_proj") if kind == "mla" else tm
    q, k, v = linear(tx, "q_proj"), linear(latent, "k_proj"), linear(latent, "v_proj")
    parts = []
    for i in range(3):
        rows, keys = slice(*Q_OFFSETS[i : i + 2]), slice(*offsets[i : i + 2])
        heads = [
            z[s].reshape(s.stop - s.start, -1, 2).transpose(0, 1)[None]
            for z, s in ((q, rows), (k, keys), (v, keys))
        ]
        context = functional.scaled_dot_product_attention(*heads, is_causal=own, enable_gqa=True)
        parts.append(context[0].transpose(0, 1).reshape(-1, 8))
    out = linear(torch.cat(parts), "out_proj")
    out.backward(torch.tensor(dy))
    close = {"rtol": 0, "atol": 1e-10}
    np.testing.assert_allclose(y, out.detach().numpy(), **close)
    if own:
        np.testing.assert_allclose(dx + dmemory, tx.grad.numpy(), **close)
    else:
        np.testing.assert_allclose(dx, tx.grad.numpy(), **close)
        np.testing.assert_allclose(dmemory, tm.grad.numpy(), **close)
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.grad, weights[name].grad.numpy(), **close)


@pytest.mark.parametrize(
    ("n_kv_heads", "kv_rank", "words"),
    [(3, 0, "n_kv_heads must divide n_heads = 4, but is 3"), (-1, 0, "n_kv_heads"), (1, 4, "rank")],
)
def test_wrong_sizes(n_kv_heads: int, kv_rank: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(config_of("mha"), n_kv_heads=n_kv_heads, kv_rank=kv_rank)


# ---- exports ----


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    directory = tmp_path_factory.mktemp("vocabulary")
    sentences = ["今天天气很好。", "The weather is nice today.", "Do you like tea?", "他来了。"]
    train_vocabulary(sentences, directory, 32, character_coverage=1.0)
    return Vocabulary(directory)


@pytest.mark.parametrize("kind", list(KINDS))
def test_engine_computes_what_was_trained(
    kind: str, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    import s2s_infer
    from tools.train import export_hf, export_native
    from tools.train.data import pack

    config = config_of(kind, len(vocabulary), d_model=24)
    model = random_model(config, np.float32)
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, config, model.parameters.buffer, {})
    source, target = [5, 9, 3, 20, 0], [7, 7, 2, 23, 11]
    expected = model.forward(pack([source], [[*target, 0]], vocabulary.pad))[0]

    export_hf.export(weights, vocabulary.directory, tmp_path / "directory")
    export_native.export(weights, vocabulary.directory, tmp_path / "model.s2s")
    for path in (tmp_path / "directory", tmp_path / "model.s2s"):
        with s2s_infer.load(path) as opened:
            n_kv_heads, kv_rank = KINDS[kind] if path.is_file() else (0, 0)
            assert opened.config.decoder.n_kv_heads == (n_kv_heads or 4)
            assert opened.config.decoder.kv_rank == kv_rank
            found = opened.trace(source, target)["decoder.logits"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
