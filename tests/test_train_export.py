"""Exports of the trainer: Hugging Face directory and ONNX graphs, live against their readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("tqdm")

from tools.train import ops as reference
from tools.train.checkpoint import load_weights, save_weights
from tools.train.data import pack
from tools.train.export_hf import export, rounded_to_bfloat16
from tools.train.generate import generate
from tools.train.layers.parameter import Parameters, count
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes
from tools.train.vocabulary import EOS, Vocabulary, train_vocabulary

ZH = ["今天天气很好。", "他来了，我们走吧！", "你喜欢喝茶吗？", "ＡＢＣ，１２３\u3000完"]
EN = ["The weather is nice today.", "He came. Let's go!", "Do you like tea?", "ABC, 123\u200b end"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    directory = tmp_path_factory.mktemp("vocabulary")
    train_vocabulary([*ZH, *EN], directory, 60, character_coverage=1.0)
    return Vocabulary(directory)


@pytest.fixture(scope="module")
def weights(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, far enough from its start that every weight matters."""
    config = ModelConfig(
        len(vocabulary), d_model=32, d_ffn=48, n_heads=4, n_encoder_layers=3, n_decoder_layers=2,
        activation="silu",
    )  # fmt: skip
    shapes = parameter_shapes(config)
    buffer = np.zeros(count(shapes), np.float32)
    initialize(config, Parameters(shapes, buffer), 3, depth_scaled=False)
    buffer += np.random.default_rng(4).normal(0, 0.1, buffer.shape).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, config, buffer, {})
    return path


def numpy_model(weights: Path) -> Model:
    config, buffer = load_weights(weights)
    return Model(config, Parameters(parameter_shapes(config), buffer), reference.load("numpy"))


def sources_of(vocabulary: Vocabulary) -> list[list[int]]:
    return vocabulary.encode_source(ZH, "en") + vocabulary.encode_source(EN, "zh")


@pytest.fixture(scope="module")
def directory(
    weights: Path, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("exported")
    export(weights, vocabulary.directory, out)
    return out


def test_bfloat16_rounding_is_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -1.00391, 3.0e38, 0.0], np.float32)
    want = np.array([1.0, 1.0, 1.015625, -1.0078125, 3.0040553e38, 0.0], np.float32)
    got = rounded_to_bfloat16(values)
    assert np.allclose(got, want, rtol=1e-7, atol=0) and not (got.view(np.uint32) & 0xFFFF).any()


def test_export_refuses_a_foreign_vocabulary(
    weights: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    train_vocabulary([*ZH, *EN], tmp_path / "other", 58, character_coverage=1.0)
    with pytest.raises(ValueError, match=rf"{len(vocabulary)} tokens.*{len(vocabulary) - 2}"):
        export(weights, tmp_path / "other", tmp_path / "out")


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_transformers_computes_the_same_logits_and_ids(
    directory: Path, weights: Path, vocabulary: Vocabulary
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours = numpy_model(weights)
    theirs = transformers.MarianMTModel.from_pretrained(directory).eval()
    tokenizer = transformers.MarianTokenizer.from_pretrained(directory)

    sources = sources_of(vocabulary)
    texts = [f">>en<<{text}" for text in ZH] + [f">>zh<<{text}" for text in EN]
    assert [tokenizer(text).input_ids for text in texts] == sources
    targets = [[*ids, EOS] for ids in vocabulary.encode([*EN, *ZH])]
    assert [tokenizer(text_target=text).input_ids for text in [*EN, *ZH]] == targets
    decoded = tokenizer.batch_decode(targets, skip_special_tokens=True)
    assert decoded == vocabulary.decode(targets)

    batch = pack(sources, targets, vocabulary.pad)
    logits, _ = ours.forward(batch)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        with torch.no_grad():
            want = theirs(
                input_ids=torch.tensor([source]), labels=torch.tensor([target])
            ).logits[0].numpy()  # fmt: skip
        got = logits[batch.target_offsets[i] : batch.target_offsets[i + 1]]
        assert np.abs(got - want).max() < 1e-4

    assert theirs.generation_config.num_beams == 4
    for source, got in zip(sources, generate(ours, sources, vocabulary.pad), strict=True):
        limit = 2 * len(source) + 11
        want = theirs.generate(torch.tensor([source]), num_beams=1, max_length=limit)[0].tolist()
        assert want[0] == vocabulary.pad
        assert got == [token for token in want[1:] if token != EOS]


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_onnxruntime_runs_the_graphs_to_the_same_ids(
    activation: str, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Greedy decoding over the two graphs, padded batch, cached keys and values."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from tools.train.export_onnx import export as export_onnx

    config = ModelConfig(
        len(vocabulary), d_model=32, d_ffn=48, n_heads=4, n_encoder_layers=2, n_decoder_layers=2,
        activation=activation,
    )  # fmt: skip
    shapes = parameter_shapes(config)
    buffer = np.random.default_rng(8).normal(0, 0.2, count(shapes)).astype(np.float32)
    save_weights(tmp_path / "weights.safetensors", config, buffer, {})
    export_onnx(tmp_path / "weights.safetensors", tmp_path)
    encoder, decoder = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder")
    )

    sources = sources_of(vocabulary)
    n, width, pad = len(sources), max(map(len, sources)), vocabulary.pad
    ids = np.array([row + [pad] * (width - len(row)) for row in sources])
    mask = (ids != pad).astype(np.int64)
    names = [output.name for output in encoder.get_outputs()]
    encoded = dict(
        zip(names, encoder.run(None, {"input_ids": ids, "attention_mask": mask}), strict=True)
    )
    feed = {"input_ids": np.full((n, 1), pad), "encoder_attention_mask": mask}
    for i in range(2):
        for kind in ("key", "value"):
            feed[f"past_key_values.{i}.encoder.{kind}"] = encoded[f"present.{i}.encoder.{kind}"]
            feed[f"past_key_values.{i}.decoder.{kind}"] = np.zeros((n, 4, 0, 8), np.float32)
    names = [output.name for output in decoder.get_outputs()]
    steps, all_logits = [], []
    for _ in range(20):
        outputs = dict(zip(names, decoder.run(None, feed), strict=True))
        all_logits.append(outputs["logits"][:, -1].copy())
        outputs["logits"][:, :, pad] = -np.inf
        feed["input_ids"] = outputs["logits"][:, -1:].argmax(axis=-1)
        steps.append(feed["input_ids"])
        for i in range(2):
            for kind in ("key", "value"):
                feed[f"past_key_values.{i}.decoder.{kind}"] = outputs[f"present.{i}.decoder.{kind}"]
    rows = np.concatenate(steps, axis=1).tolist()
    got = [row[: row.index(EOS)] if EOS in row else row for row in rows]
    ours = generate(numpy_model(tmp_path / "weights.safetensors"), sources, pad)
    assert got == [row[:20] for row in ours]

    # the same logits as the trainer's own forward pass, and as the graph fed all tokens at once
    batch = pack(sources, [[*row[:19], EOS] for row in rows], pad)
    logits, _ = numpy_model(tmp_path / "weights.safetensors").forward(batch)
    stepped = np.stack(all_logits, axis=1).reshape(n * 20, -1)
    assert np.abs(stepped - logits).max() < 1e-4
    for i in range(2):
        for kind in ("key", "value"):
            feed[f"past_key_values.{i}.decoder.{kind}"] = np.zeros((n, 4, 0, 8), np.float32)
    feed["input_ids"] = np.array([[pad, *row[:19]] for row in rows])
    assert np.abs(decoder.run(["logits"], feed)[0].reshape(n * 20, -1) - logits).max() < 1e-4
