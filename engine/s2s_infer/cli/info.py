"""`s2s-infer info`: what a model is and how it would run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..kinds import INT32_MAX
from ..kv_arithmetic import kv_info
from .arguments import Parser, UsageError, add_model_arguments, open_model
from .lines import to_json


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "info",
        "[MODEL] [options]",
        "Describes a model: its layers and sizes, the roles of special tokens, its decoding "
        "defaults,\nand the SIMD level and threads that it would run with here, and why.",
    )
    parser.add_argument("path", nargs="?", metavar="MODEL", help="as -m")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all of a *.s2s file and compare it with its checksum",
    )
    group = parser.add_argument_group("the KV cache")
    group.add_argument(
        "--kv",
        action="store_true",
        help="what the cache of keys and values holds: as the model is, and with MHA, GQA, MQA, "
        "MLA",
    )
    for flag, usual, text in (
        ("--batch", 1, "sources at once (default 1)"),
        ("--beams", 1, "beams of each (default 1)"),
        ("--length", 100, "positions of each beam (default 100)"),
        ("--source-length", None, "positions of each source (default: as --length)"),
    ):
        group.add_argument(flag, type=int, default=usual, metavar="N", help=text)
    add_model_arguments(parser)
    arguments = parser.parse(argv)
    if arguments.path is not None:
        if arguments.model is not None:
            parser.error("give MODEL or -m, not both")
        arguments.model = arguments.path
    model = open_model(arguments)
    info = model.info()
    if arguments.verify:
        info["checksum"] = _verify(Path(info["path"]))
    lines = _lines
    if arguments.kv:
        load = {
            "batch": arguments.batch,
            "beams": arguments.beams,
            "length": arguments.length,
            "source_length": arguments.source_length,
        }
        for name, value in load.items():
            if value is not None and not 1 <= value <= INT32_MAX:
                flag = name.replace("_", "-")
                parser.error(f"--{flag} must be from 1 to {INT32_MAX}, not {value}")
        if load["source_length"] is None:
            load["source_length"] = arguments.length
        info["kv"] = kv_info(model.config, kv_dtype=info["kv_dtype"], **load)
        lines = _kv_lines
    print(to_json(info) if arguments.json else "\n".join(lines(info)))
    return 0


def _verify(path: Path) -> str:
    from ..formats.native import KIND
    from ..formats.safetensors import open_safetensors

    if path.is_dir():
        raise UsageError(f"--verify is for {KIND}, but {path} is a directory", "s2s-infer info")
    open_safetensors(path, KIND).verify()
    return "SHA-256, fits"


def _kv_lines(info: Mapping[str, Any]) -> Iterator[str]:
    kv = info["kv"]
    if not kv["kinds"]:
        yield f"{info['path']} has no decoder, so nothing is kept between steps."
        return
    yield (
        f"{kv['n_layers']} layers x positions x (keys + values) x {kv['bytes_per_number']} bytes "
        f"({kv['kv_dtype']})"
    )
    cross = f"; cross-attention: {kv['batch']} sources of {kv['source_length']} positions"
    yield (
        f"self-attention: {kv['batch']} x {kv['beams']} rows of {kv['length']} positions"
        f"{cross if info['config']['encoder']['n_layers'] else ''}"
    )
    yield ""
    titles = ("", "heads of keys, values", "keys", "values", "self", "cross", "bytes", "")
    rows = [titles]
    most = max(kind["n_bytes"] for kind in kv["kinds"])
    for kind in kv["kinds"]:
        rows.append(
            (
                kind["kind"] + (" *" if kind["actual"] else ""),
                kind["what"],
                str(kind["d_keys"]),
                str(kind["d_values"]),
                f"{kind['self_numbers']:,}",
                f"{kind['cross_numbers']:,}",
                f"{kind['n_bytes']:,}",
                f"{kind['n_bytes'] / most:.0%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[:2] = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        yield "  ".join(cells).rstrip()
    yield ""
    yield "* as the model computes it.  keys, values: numbers of one position in one layer."


def _lines(info: Mapping[str, Any]) -> Iterator[str]:
    config = info["config"]
    yield f"model           {info['path']}"
    if "checksum" in info:
        yield f"checksum        {info['checksum']}"
    yield f"family          {info['family']}"
    yield f"weights         {info['weights']:,} in {info['dtype']}, {info['bytes'] / 1e6:.1f} MB"
    yield f"keys, values    {info['kv_dtype']}"
    yield (
        f"vocabulary      {config['source_vocab_size']:,} source, {config['vocab_size']:,} target "
        f"tokens; tokenizer: {info['tokenizer']}"
    )
    yield f"width           d_model {config['d_model']}"
    for name in ("encoder", "decoder"):
        yield f"{name:<16}{_stack(config[name]) if config[name]['n_layers'] else 'none'}"
    for name, layers in config["heads"].items():
        yield f"{name:<16}" + ", ".join(
            f"{layer['n_out']} {layer['activation']}{', norm' if layer['norm'] else ''}"
            for layer in layers
        )
    if config["labels"]:
        yield f"labels          {', '.join(config['labels'])} ({config['label_scores']})"
    available = ", ".join(info["isa_available"])
    yield f"SIMD level      {info['isa']} ({info['isa_reason']}; of {available})"
    yield f"threads         {info['threads']} ({info['threads_reason']})"
    yield "what is added"
    for sentence in info["input"] or ["nothing: it takes and gives ids only"]:
        yield f"  {sentence}"
    yield "special tokens"
    for role, value in info["special_tokens"].items():
        if isinstance(value, Mapping):
            shown = ", ".join(f"{code} {token}" for code, token in value.items()) or "none"
        elif isinstance(value, list):
            shown = ", ".join(map(str, value)) or "none"
        else:
            shown = "none" if value is None else str(value)
        yield f"  {role:<16}{shown}"
    yield "decoding defaults" + ("" if info["generation"] else ": greedy search")
    for name, value in info["generation"].items():
        yield f"  {name:<24}{value}"


def _stack(stack: Mapping[str, Any]) -> str:
    parts = [
        f"{stack['n_layers']} layers",
        f"{stack['n_heads']} heads of {stack['d_head']}",
        f"feed-forward {stack['d_ffn']} {stack['activation']}",
        f"{stack['norm_place']}-norm",
        f"positions {stack['positions']}, at most {stack['max_positions']}",
    ]
    if stack["n_kv_heads"] != stack["n_heads"]:
        parts.insert(2, f"{stack['n_kv_heads']} key-value heads")
    if stack["window"]:
        parts.append(f"window {stack['window']}")
    return ", ".join(parts)
