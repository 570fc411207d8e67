"""The bench's models as ONNX graphs, and greedy decoding over them with onnxruntime.

The graphs are the trainer's export (`tools/train/export_onnx.py`): the encoder once, with the
decoder's cross-attention keys and values; a decoder that takes past keys and values and gives them
one position longer, so that a step computes nothing twice.  int8: onnxruntime's own dynamic
quantization of every product, the output's too, a scale for each output.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write(hugging_face: Path, target: Path, dtype: str) -> None:
    """encoder.onnx, decoder.onnx and what decoding needs to know, to the folder `target`."""
    from safetensors.numpy import load_file

    from tools.train.export_onnx import decoder_graph, encoder_graph
    from tools.train.layers.parameter import Parameters, count
    from tools.train.model import ModelConfig, parameter_shapes

    given = json.loads((hugging_face / "config.json").read_text(encoding="utf-8"))
    config = ModelConfig(
        n_vocab=given["vocab_size"],
        d_model=given["d_model"],
        d_ffn=given["encoder_ffn_dim"],
        n_heads=given["encoder_attention_heads"],
        n_encoder_layers=given["encoder_layers"],
        n_decoder_layers=given["decoder_layers"],
        activation=given["activation_function"],
        scale_embedding=given["scale_embedding"],
        max_positions=given["max_position_embeddings"],
    )
    shapes = parameter_shapes(config)
    parameters = Parameters(shapes, np.zeros(count(shapes), np.float32))
    tensors = load_file(hugging_face / "model.safetensors")
    for name, parameter in parameters.items():
        if name == "final_logits_bias":
            parameter.value[...] = tensors[name][0]
            parameter.value[given["pad_token_id"]] = -1e9  # never generated
        else:
            values = tensors[f"model.{name}"]
            is_product = values.ndim == 2 and name != "shared.weight"
            parameter.value[...] = values.T if is_product else values
    target.mkdir(parents=True, exist_ok=True)
    for name, graph in (("encoder", encoder_graph), ("decoder", decoder_graph)):
        path = target / f"{name}.onnx"
        graph(config, parameters).save(path, name)
        if dtype == "int8":
            _quantize(path)
    names = ("pad_token_id", "eos_token_id", "decoder_start_token_id", "decoder_layers")
    sizes = {"n_heads": config.n_heads, "d_head": config.d_model // config.n_heads}
    (target / "config.json").write_text(json.dumps({**{n: given[n] for n in names}, **sizes}))


def _quantize(path: Path) -> None:
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = ort.SessionOptions()
    # folds the transposed embeddings, which the output is a product with, into a matrix
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    folded = path.with_suffix(".folded.onnx")
    options.optimized_model_filepath = str(folded)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    quantize_dynamic(
        folded,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    folded.unlink()


class Decoder:
    """Greedy search over the two graphs."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._ort = ort
        self._encoder, self._decoder = (
            ort.InferenceSession(
                str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in ("encoder", "decoder")
        )
        self._config = json.loads((folder / "config.json").read_text())
        names = [output.name for output in self._decoder.get_outputs()]
        self._presents = [name for name in names if name != "logits"]

    def run(self, sources: Sequence[Sequence[int]], n_most: int, fixed: bool) -> list[list[int]]:
        """Outputs of n_most tokens each; not `fixed`: until they end."""
        config, value = self._config, self._ort.OrtValue.ortvalue_from_numpy
        n = len(sources)
        ids = np.full((n, max(map(len, sources))), config["pad_token_id"], np.int64)
        mask = np.zeros_like(ids)
        for i, source in enumerate(sources):
            ids[i, : len(source)], mask[i, : len(source)] = source, 1
        names = [output.name for output in self._encoder.get_outputs()]
        feeds = {"input_ids": value(ids), "attention_mask": value(mask)}
        found = self._encoder.run_with_ort_values(names, feeds)
        feeds = {"encoder_attention_mask": value(mask)}
        for name, present in zip(names[1:], found[1:], strict=True):
            feeds[name.replace("present", "past_key_values")] = present
        empty = np.zeros((n, config["n_heads"], 0, config["d_head"]), np.float32)
        for name in self._presents:
            feeds[name.replace("present", "past_key_values")] = value(empty)
        tokens = np.full((n, 1), config["decoder_start_token_id"], np.int64)
        eos, steps = config["eos_token_id"], []
        ended = np.zeros(n, bool)
        for _ in range(n_most):
            feeds["input_ids"] = value(tokens)
            logits, *presents = self._decoder.run_with_ort_values(
                ["logits", *self._presents], feeds
            )
            for name, present in zip(self._presents, presents, strict=True):
                feeds[name.replace("present", "past_key_values")] = present
            row = logits.numpy()[:, -1]
            if fixed:
                row[:, eos] = -np.inf
            tokens = row.argmax(axis=1)[:, None]
            steps.append(tokens[:, 0])
            ended |= tokens[:, 0] == eos
            if ended.all():
                break
        rows = np.stack(steps, axis=1).tolist()
        return [row[: row.index(eos)] if eos in row else row for row in rows]
