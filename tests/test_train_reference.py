"""The trainer against torch: gradients of a Marian model, the optimizer, the loss."""

from __future__ import annotations

import numpy as np
import pytest

from tools.train import ops as reference
from tools.train.layers.parameter import Parameters, count
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

from tools.train.data import pack
from tools.train.export_hf import marian_config, marian_tensors

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]
ops = reference.load("numpy")


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_gradients_of_a_marian_model(activation: str) -> None:
    """Loss and gradients of every parameter equal those of torch's autograd (float64)."""
    pad = 29
    config = ModelConfig(
        30, d_model=16, d_ffn=24, n_heads=4, n_encoder_layers=2, n_decoder_layers=2,
        activation=activation,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    shapes = parameter_shapes(config)
    parameters = Parameters(shapes, np.zeros(count(shapes)), np.zeros(count(shapes)))
    initialize(config, parameters, 1, depth_scaled=True)
    parameters.buffer += rng.normal(0, 0.05, parameters.buffer.shape)
    sources = [rng.integers(1, 29, n).tolist() for n in (3, 7, 1)]
    targets = [rng.integers(1, 29, n).tolist() for n in (4, 2, 6)]
    batch = pack(sources, targets, pad)
    logits, backward = Model(config, parameters, ops).forward(batch)
    loss, _ = ops.softmax_xent(logits, batch.target_ids, 0.1, 1.0)
    backward(logits)

    theirs = transformers.MarianMTModel(
        transformers.MarianConfig(**marian_config(config, pad), attn_implementation="eager")
    ).double()
    tensors = {k: torch.from_numpy(v) for k, v in marian_tensors(config, parameters.buffer).items()}
    theirs.load_state_dict(tensors, strict=False)
    # transformers keeps this bias out of training: give it a gradient
    theirs.final_logits_bias = tensors["final_logits_bias"].clone().requires_grad_(True)
    theirs.tie_weights()
    theirs.eval()
    want_loss = 0.0
    for source, target in zip(sources, targets, strict=True):
        decoder_ids = torch.tensor([[pad, *target[:-1]]])
        out = theirs(input_ids=torch.tensor([source]), decoder_input_ids=decoder_ids).logits[0]
        part = torch.nn.functional.cross_entropy(
            out, torch.tensor(target), label_smoothing=0.1, reduction="sum"
        )
        part.backward()
        want_loss += float(part)
    # transformers builds its position table in float32
    assert loss == pytest.approx(want_loss, rel=1e-6)
    assert parameters.grad_buffer is not None
    got = marian_tensors(config, parameters.grad_buffer)
    for name, gradient in got.items():
        if name == "final_logits_bias":
            want = theirs.final_logits_bias.grad
        else:
            want = theirs.get_parameter(name).grad
        want = want.numpy().copy()
        if name == "model.shared.weight":  # padding_idx: torch leaves this row's input part out
            gradient, want = gradient[:pad], want[:pad]
        assert np.abs(gradient - want).max() < 1e-5 * max(1.0, np.abs(want).max()), name


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_torch_adamw(decay: float) -> None:
    rng = np.random.default_rng(1)
    start = rng.normal(size=70_000).astype(np.float32)
    param, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.AdamW(
        [theirs], lr=0.01, betas=(0.9, 0.98), eps=1e-9, weight_decay=decay
    )
    for step in range(1, 6):
        grad = rng.normal(size=start.shape).astype(np.float32)
        ops.adam(param, grad, m, v, 0.01, 0.9, 0.98, 1e-9, decay, step, 0.5)
        theirs.grad = torch.from_numpy(grad * np.float32(0.5))
        optimizer.step()
        # parameters up to 4 in size round by 2.4e-7 a step on either side; and with decoupled
        # decay torch shrinks before the update, we in one difference
        assert np.abs(param - theirs.detach().numpy()).max() < 1e-4 * decay + 5e-6


def test_sum_squares() -> None:
    x = np.random.default_rng(1).normal(size=200_001).astype(np.float32)
    assert ops.sum_squares(x) == pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-12)
