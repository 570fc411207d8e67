"""``python -m tools.train``: train a vocabulary and a model, average, export, plot."""

from __future__ import annotations

import os

# One BLAS thread per process: the trainer runs one process per core. Must precede numpy.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import importlib
import json
import sys
from dataclasses import fields
from pathlib import Path

from tools.train.config import TrainConfig, add_arguments


def _vocab(args: argparse.Namespace) -> None:
    from tools.train.data import read_tsv
    from tools.train.vocabulary import train_vocabulary

    rows = read_tsv(args.data / "train.tsv")
    sentences = (sentence for row in rows for sentence in row)
    train_vocabulary(sentences, args.out, args.size, args.character_coverage, args.byte_fallback)
    print(f"{args.out}: {args.size} pieces", file=sys.stderr)


def _train(args: argparse.Namespace) -> None:
    from tools.train.loop import Trainer
    from tools.train.ops import use_array_module

    use_array_module(importlib.import_module(args.array_module))
    values = {item.name: getattr(args, item.name) for item in fields(TrainConfig)}
    counters = Trainer(TrainConfig(**values), resume=args.resume).run()
    print(json.dumps({"best": counters["best"], "step": counters["step"]}))


def _average(args: argparse.Namespace) -> None:
    from tools.train.checkpoint import average_weights

    average_weights(args.weights, args.out)


def _translate(args: argparse.Namespace) -> None:
    from tools.train.translate import translate

    texts = sys.stdin.read().splitlines()
    for text in translate(
        args.weights, args.vocab, texts, args.to, args.temperature, args.seed, args.ops
    ):
        print(text)


def _evaluate(args: argparse.Namespace) -> None:
    from tools.train.translate import evaluate

    print(json.dumps(evaluate(args.weights, args.vocab, args.data / "valid.tsv", args.ops)))


def _export(args: argparse.Namespace) -> None:
    if args.native:
        from tools.train.export_native import export as export_native

        if args.onnx or args.bfloat16_weights:
            raise ValueError("--native goes without --onnx and --bfloat16-weights")
        export_native(args.weights, args.vocab, args.out)
        return
    from tools.train.export_hf import export

    export(args.weights, args.vocab, args.out, args.bfloat16_weights)
    if args.onnx:
        from tools.train.export_onnx import export as export_onnx

        export_onnx(args.weights, args.out)


def _plot(args: argparse.Namespace) -> None:
    from tools.train.plot import plot

    plot(args.logs, args.out)


def _toy(args: argparse.Namespace) -> None:
    from tools.train.toy import main

    main()


def _recipe(args: argparse.Namespace) -> None:
    from tools.train.recipe import run

    run(args.data, args.out)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="python -m tools.train",
        description="Train a Transformer for Chinese <-> English on the CPU, in numpy.",
        epilog="Usual order: vocab, train, average, export. `recipe` does all of it.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".",
        )  # fmt: skip
        sub.set_defaults(function=function)
        return sub

    def path(sub: argparse.ArgumentParser, name: str, text: str, many: bool = False) -> None:
        if name.startswith("--"):
            sub.add_argument(name, type=Path, required=True, help=text)
        else:
            sub.add_argument(name, type=Path, nargs="+" if many else None, help=text)

    def choose_ops(sub: argparse.ArgumentParser) -> None:
        choices = ("auto", "native", "numpy")
        sub.add_argument(
            "--ops", choices=choices, default="auto", help="operations (default: %(default)s)"
        )

    sub = command("vocab", _vocab, "train the subword vocabulary")
    path(sub, "--data", "directory with train.tsv")
    path(sub, "--out", "directory for source.spm, target.spm, vocab.json")
    sub.add_argument("--size", type=int, default=6000, help="pieces (default: %(default)s)")
    sub.add_argument(
        "--character-coverage", type=float, default=0.9998,
        help="share of the text's characters that get a piece (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--byte-fallback", action="store_true", help="spell other characters as bytes")

    sub = command("train", _train, "train a model")
    sub.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    sub.add_argument(
        "--array-module", choices=("numpy", "cupy"), default="numpy",
        help="where arrays live: cupy is one worker on a GPU (default: %(default)s)",
    )  # fmt: skip
    add_arguments(sub)

    sub = command("average", _average, "average the weights of several files")
    path(sub, "weights", "weights files of one run", many=True)
    path(sub, "--out", "file to write")

    for name, function, text in (
        ("evaluate", _evaluate, "BLEU and chrF of greedy decoding on valid.tsv"),
        ("translate", _translate, "translate the lines of standard input"),
        ("export", _export, "write a Hugging Face directory that transformers and the engine open"),
    ):
        sub = command(name, function, text)
        path(sub, "--weights", "weights file")
        path(sub, "--vocab", "vocabulary directory")
        if name == "export":
            path(sub, "--out", "directory, or with --native file, to write")
            sub.add_argument("--onnx", action="store_true", help="also write ONNX graphs")
            sub.add_argument(
                "--native", action="store_true",
                help="write one *.s2s file instead, which keeps n_kv_heads (a directory holds the "
                "equal multi-head attention)",
            )  # fmt: skip
            sub.add_argument(
                "--bfloat16-weights", action="store_true",
                help="round the weights to bfloat16 (a later bfloat16 file then loses nothing)",
            )  # fmt: skip
            continue
        choose_ops(sub)
        if name == "evaluate":
            path(sub, "--data", "directory with valid.tsv")
        else:
            sub.add_argument("--to", choices=("en", "zh"), required=True, help="target language")
            sub.add_argument(
                "--temperature", type=float, default=0.0,
                help="0 for greedy, above to sample, e.g. for back-translation (default: 0)",
            )  # fmt: skip
            sub.add_argument("--seed", type=int, default=1, help="seed of sampling (default: 1)")

    sub = command("plot", _plot, "plot training logs")
    path(sub, "logs", "log.jsonl of one run or of several", many=True)
    path(sub, "--out", "image to write (png, svg or pdf)")

    command("toy", _toy, "watch a tiny Transformer learn to copy, act by act")

    sub = command("recipe", _recipe, "make the bundled model from the data, start to end")
    path(sub, "--data", "directory with train.tsv and valid.tsv")
    path(sub, "--out", "directory for everything that is made")
    return root


def main() -> None:
    """Run one command; a wrong input ends with one sentence."""
    args = parser().parse_args()
    try:
        args.function(args)
    except (ValueError, OSError, RuntimeError, ImportError, ArithmeticError) as error:
        sys.exit(f"tools.train {args.command}: {error}")


if __name__ == "__main__":
    main()
