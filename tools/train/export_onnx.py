"""Write the model as two ONNX graphs, built node by node.

``encoder.onnx``: ``input_ids``, ``attention_mask`` (int64 ``[batch, source]``) to
``last_hidden_state`` ``[batch, source, d]`` and, for each decoder layer i,
``present.i.encoder.key`` and ``.value`` ``[batch, heads, source, d / heads]``: the
cross-attention's keys and values, computed once.

``decoder.onnx``: ``input_ids [batch, target]``, ``encoder_attention_mask [batch, source]``, those
keys and values as ``past_key_values.i.encoder.*``, and ``past_key_values.i.decoder.key`` and
``.value`` ``[batch, heads, past, d / heads]`` (past is 0 at first) to ``logits [batch, target,
vocabulary]`` and ``present.i.decoder.*``, one longer in ``past`` by ``target``. Names follow
optimum's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.train.checkpoint import load_weights
from tools.train.expand import as_multi_head
from tools.train.layers.embedding import sinusoidal_positions
from tools.train.layers.layer_norm import EPS
from tools.train.layers.parameter import Parameters
from tools.train.model import ModelConfig, parameter_shapes

OPSET = 17
_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


class _Graph:
    """Nodes, weights, inputs and outputs of a graph under construction."""

    def __init__(self, config: ModelConfig, parameters: Parameters) -> None:
        self.config, self.parameters = config, parameters
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._constants: dict[str, Any] = {}

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def constant(self, name: str, value: Any, dtype: Any = numpy.int64) -> str:
        """A named constant, stored once."""
        if name not in self._constants:
            array = numpy.array(value, dtype=dtype, order="C")
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.parameters[name].value, numpy.float32)

    def input(self, name: str, kind: int, shape: list[str | int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, shape: list[str | int]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, _FLOAT, shape))

    def save(self, path: Path, name: str) -> None:
        """Check the graph and write it."""
        graph = helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, list(self._constants.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="s2s-infer"
        )
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))

    # --------------------------------------------------------------------------- pieces of a layer

    def linear(self, x: str, name: str) -> str:
        product = self.op("MatMul", x, self.weight(f"{name}.weight"))
        return self.op("Add", product, self.weight(f"{name}.bias"))

    def add_and_norm(self, x: str, residual: str, name: str) -> str:
        return self.op(
            "LayerNormalization", self.op("Add", x, residual),
            self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), axis=-1, epsilon=EPS,
        )  # fmt: skip

    def heads(self, x: str, name: str, out: str = "") -> str:
        """Project ``[B, T, d]`` and split it: ``[B, H, T, d / H]``."""
        n, d = self.config.n_heads, self.config.d_model
        shape = self.constant("split_heads", [0, 0, n, d // n])
        split = self.op("Reshape", self.linear(x, name), shape)
        return self.op("Transpose", split, out=out, perm=[0, 2, 1, 3])

    def attention(self, x: str, keys: str, values: str, bias: str, name: str) -> str:
        """``bias`` is added to the scores: minus infinity where a key is hidden."""
        scale = 1 / math.sqrt(self.config.d_model // self.config.n_heads)
        query = self.op(
            "Mul", self.heads(x, f"{name}.q_proj"), self.constant("scale", scale, numpy.float32)
        )
        scores = self.op("MatMul", query, self.op("Transpose", keys, perm=[0, 1, 3, 2]))
        probs = self.op("Softmax", self.op("Add", scores, bias), axis=-1)
        context = self.op("Transpose", self.op("MatMul", probs, values), perm=[0, 2, 1, 3])
        joined = self.op(
            "Reshape", context, self.constant("join_heads", [0, 0, self.config.d_model])
        )
        return self.linear(joined, f"{name}.out_proj")

    def feed_forward(self, x: str, name: str) -> str:
        inner = self.linear(x, f"{name}.fc1")
        kind = self.config.activation
        if kind == "relu":
            inner = self.op("Relu", inner)
        elif kind == "silu":
            inner = self.op("Mul", inner, self.op("Sigmoid", inner))
        else:  # gelu, the exact form
            root = self.constant("sqrt_half", math.sqrt(0.5), numpy.float32)
            one = self.constant("one", 1.0, numpy.float32)
            half = self.constant("half", 0.5, numpy.float32)
            cdf = self.op("Add", self.op("Erf", self.op("Mul", inner, root)), one)
            inner = self.op("Mul", inner, self.op("Mul", cdf, half))
        return self.linear(inner, f"{name}.fc2")

    def embed(self, ids: str, past: str) -> str:
        """Scaled token embedding plus the positions from ``past`` on."""
        config = self.config
        factor = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        x = self.op("Gather", self.weight("shared.weight"), ids)
        x = self.op("Mul", x, self.constant("embedding_scale", factor, numpy.float32))
        table = sinusoidal_positions(config.max_positions, config.d_model)
        table_name = self.constant("positions", table, numpy.float32)
        end = self.op("Add", past, self.size(ids, 1))
        rows = self.op("Range", past, end, self.constant("step", 1))
        return self.op("Add", x, self.op("Gather", table_name, rows))

    def size(self, x: str, axis: int) -> str:
        """One extent of ``x`` as a scalar."""
        return self.op("Gather", self.op("Shape", x), self.constant(f"axis_{axis}", axis))

    def hide(self, visible: str) -> str:
        """Bool to what is added to scores: 0 or minus infinity."""
        zero = self.constant("zero", 0.0, numpy.float32)
        return self.op("Where", visible, zero, self.constant("hidden", -math.inf, numpy.float32))

    def padding_bias(self, mask: str) -> str:
        """``[B, S]`` of ones and zeros to ``[B, 1, 1, S]`` of 0 and minus infinity."""
        visible = self.op("Cast", mask, to=TensorProto.BOOL)
        return self.hide(self.op("Unsqueeze", visible, self.constant("axes_1_2", [1, 2])))


def encoder_graph(config: ModelConfig, parameters: Parameters) -> _Graph:
    """Source ids to hidden states and the decoder's cross-attention keys and values."""
    g = _Graph(config, parameters)
    ids = g.input("input_ids", _INT, ["batch", "source"])
    bias = g.padding_bias(g.input("attention_mask", _INT, ["batch", "source"]))
    x = g.embed(ids, g.constant("nothing", 0))
    for i in range(config.n_encoder_layers):
        name = f"encoder.layers.{i}"
        keys, values = (g.heads(x, f"{name}.self_attn.{p}") for p in ("k_proj", "v_proj"))
        attended = g.attention(x, keys, values, bias, f"{name}.self_attn")
        x = g.add_and_norm(attended, x, f"{name}.self_attn_layer_norm")
        x = g.add_and_norm(g.feed_forward(x, name), x, f"{name}.final_layer_norm")
    g.op("Identity", x, out="last_hidden_state")
    g.output("last_hidden_state", ["batch", "source", config.d_model])
    dh = config.d_model // config.n_heads
    for i in range(config.n_decoder_layers):
        for kind, projection in (("key", "k_proj"), ("value", "v_proj")):
            out = f"present.{i}.encoder.{kind}"
            g.heads(x, f"decoder.layers.{i}.encoder_attn.{projection}", out=out)
            g.output(out, ["batch", config.n_heads, "source", dh])
    return g


def decoder_graph(config: ModelConfig, parameters: Parameters) -> _Graph:
    """Target ids after some past to logits and the longer past."""
    g = _Graph(config, parameters)
    dh = config.d_model // config.n_heads
    ids = g.input("input_ids", _INT, ["batch", "target"])
    source_bias = g.padding_bias(g.input("encoder_attention_mask", _INT, ["batch", "source"]))
    pasts = []
    for i in range(config.n_decoder_layers):
        for side, length in (("decoder", "past"), ("encoder", "source")):
            for kind in ("key", "value"):
                name = f"past_key_values.{i}.{side}.{kind}"
                pasts.append(g.input(name, _FLOAT, ["batch", config.n_heads, length, dh]))
    past = g.size(pasts[0], 2)
    x = g.embed(ids, past)
    end = g.op("Add", past, g.size(ids, 1))
    columns = g.op("Range", g.constant("nothing", 0), end, g.constant("step", 1))
    rows = g.op("Range", past, end, g.constant("step", 1))
    rows = g.op("Unsqueeze", rows, g.constant("axes_1", [1]))
    bias = g.hide(g.op("LessOrEqual", columns, rows))
    for i in range(config.n_decoder_layers):
        name = f"decoder.layers.{i}"
        own = []
        for j, (kind, projection) in enumerate((("key", "k_proj"), ("value", "v_proj"))):
            new = g.heads(x, f"{name}.self_attn.{projection}")
            out = f"present.{i}.decoder.{kind}"
            own.append(g.op("Concat", pasts[4 * i + j], new, out=out, axis=2))
            g.output(out, ["batch", config.n_heads, "past_and_target", dh])
        attended = g.attention(x, own[0], own[1], bias, f"{name}.self_attn")
        x = g.add_and_norm(attended, x, f"{name}.self_attn_layer_norm")
        keys, values = pasts[4 * i + 2 : 4 * i + 4]
        crossed = g.attention(x, keys, values, source_bias, f"{name}.encoder_attn")
        x = g.add_and_norm(crossed, x, f"{name}.encoder_attn_layer_norm")
        x = g.add_and_norm(g.feed_forward(x, name), x, f"{name}.final_layer_norm")
    table = g.op("Transpose", g.weight("shared.weight"), perm=[1, 0])
    g.op("Add", g.op("MatMul", x, table), g.weight("final_logits_bias"), out="logits")
    g.output("logits", ["batch", "target", config.n_vocab])
    return g


def export(weights: Path, out: Path) -> None:
    """Write ``encoder.onnx`` and ``decoder.onnx`` of a weights file into the directory ``out``."""
    config, buffer = as_multi_head(*load_weights(weights))
    parameters = Parameters(parameter_shapes(config), buffer)
    out.mkdir(parents=True, exist_ok=True)
    encoder_graph(config, parameters).save(out / "encoder.onnx", "encoder")
    decoder_graph(config, parameters).save(out / "decoder.onnx", "decoder")
