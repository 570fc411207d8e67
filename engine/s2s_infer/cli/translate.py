"""`s2s-infer translate`, and what `generate` shares with it."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import OptionError
from .arguments import (
    Parser,
    add_generation_arguments,
    add_model_arguments,
    add_text_arguments,
    generation_options,
    open_model,
    text_options,
)

if TYPE_CHECKING:
    from ..model import Model
    from ..readers import Reader
    from ..results import GenerationResult, Hypothesis
    from .lines import LineWriter, Progress

EPILOG = """examples:
  s2s-infer translate "今天天气很好"
  s2s-infer translate --to zh "The weather is nice today." --num-beams 4
  s2s-infer translate -i chinese.txt -o english.txt
  tail -f log.txt | s2s-infer translate --json
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "translate",
        "[TEXT ...] [-i FILE] [-o FILE] [--to LANG] [options]",
        "Translates texts given as arguments, or lines of a file, one sentence a line.  Without "
        "--to,\nthe built-in model translates Chinese to English and anything else to Chinese.",
        EPILOG,
    )
    add_input_arguments(parser)
    add_text_arguments(parser)
    add_target_prefix(parser)
    add_model_arguments(parser)
    add_generation_arguments(parser)
    arguments = parser.parse(argv)
    check_input_arguments(parser, arguments)
    model = open_model(arguments)
    options = generation_options(arguments)
    options.update(text_options(arguments), target_prefix=arguments.target_prefix)
    return process(model, arguments, options)


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """TEXT, -i, -o, --json, -q."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: lines of -i")
    parser.add_argument("-i", "--input", metavar="FILE", help="lines to read (default: stdin)")
    parser.add_argument("-o", "--output", metavar="FILE", help="file to write (default: stdout)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line, with ids, tokens, scores and the reason of the end, instead "
        "of the text; without it, --num-return-sequences N gives N lines for each input",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no warnings")


def add_target_prefix(parser: argparse.ArgumentParser, ids: str = "") -> None:
    """--target-prefix."""
    parser.add_argument(
        "--target-prefix", metavar="TEXT", help="what every output begins with" + ids
    )


def add_prompt(parser: argparse.ArgumentParser, ids: str = "") -> None:
    """--prompt."""
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what every input of a decoder alone begins with, read once for all" + ids,
    )


def check_input_arguments(parser: Parser, arguments: argparse.Namespace) -> None:
    """What argparse cannot see."""
    if arguments.texts and arguments.input is not None:
        parser.error("give either texts or --input, not both")


def process(
    model: Model,
    arguments: argparse.Namespace,
    options: dict[str, Any],
    parse: Callable[[str, str], Any] = lambda text, where: text,
    render: Callable[[Hypothesis], str] = lambda hypothesis: hypothesis.text or "",
) -> int:
    """Run the texts or lines and write the results.

    parse: (line, what errors call it) -> what Model.iterate takes; render: hypothesis -> line.
    """
    from .lines import to_json

    with ExitStack() as stack:
        reader = open_reader(arguments, stack, parse)
        results = model.iterate(reader, **{"return_scores": arguments.json, **options})
        writer, progress = open_writer(arguments, stack, reader)
        n_lines = options.get("num_return_sequences", model.generation_config.num_return_sequences)
        notes = Notes("max_new_tokens" in options or "max_length" in options)
        for result in results:
            notes.add(result)
            if arguments.json:
                writer.write(to_json(result.to_dict()))
            else:
                for hypothesis in result.hypotheses:
                    writer.write(render(hypothesis))
                for _ in range(n_lines - len(result.hypotheses)):
                    writer.write("")  # fewer outputs were possible: later lines stay in place
            progress.advance()
    if not arguments.quiet:
        notes.show("argument" if arguments.texts else "line")
    return 0


def open_reader(
    arguments: argparse.Namespace, stack: ExitStack, parse: Callable[[str, str], Any]
) -> Reader[Any]:
    """The texts of the command line, or lines.  parse: (line, what errors call it) -> input."""
    from .lines import ArgumentReader, LineReader

    if arguments.texts:
        numbered = enumerate(arguments.texts, 1)
        return ArgumentReader([parse(text, f"argument {number}") for number, text in numbered])
    descriptor = open_input(arguments, stack)
    refuse_same_file(descriptor, arguments.output)
    return LineReader(descriptor, parse)


def open_writer(
    arguments: argparse.Namespace, stack: ExitStack, reader: Reader[Any]
) -> tuple[LineWriter, Progress]:
    """Where results go, at once unless a file is read, and what shows how far they are."""
    from .lines import LineReader, LineWriter, Progress

    lines = reader if isinstance(reader, LineReader) else None
    output = open_output(arguments, stack)
    progress = Progress(lines, output, arguments.quiet)
    stack.callback(progress.close)
    return LineWriter(output, lines is None or lines.n_bytes is None), progress


def open_input(arguments: argparse.Namespace, stack: ExitStack) -> int:
    """The file descriptor to read."""
    if arguments.input in (None, "-"):
        if os.isatty(0) and not arguments.quiet:
            print("reading the terminal, one sentence a line; Ctrl-D ends", file=sys.stderr)
        return 0
    descriptor = os.open(arguments.input, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    if Path(arguments.input).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), arguments.input)
    return descriptor


def refuse_same_file(descriptor: int, output: str | None) -> None:
    """Raise OptionError if the output would overwrite the file that is read."""
    if output is None or output == "-" or not Path(output).is_file():
        return
    if os.path.samestat(os.fstat(descriptor), Path(output).stat()):
        raise OptionError(f"--output {output} is the input file.")


def open_output(arguments: argparse.Namespace, stack: ExitStack) -> IO[bytes]:
    if arguments.output in (None, "-"):
        stack.callback(sys.stdout.buffer.flush)
        return sys.stdout.buffer
    return stack.enter_context(Path(arguments.output).open("wb"))


class Notes:
    """Counts what a user should hear of: outputs that a limit ended, inputs that were cut."""

    def __init__(self, limit_given: bool) -> None:
        """limit_given: the user set an output limit, so that reaching it needs no word."""
        self._limit_given = limit_given
        self._n_results = 0
        self._found: dict[str, list[int]] = {}

    def add(self, result: GenerationResult) -> None:
        self._n_results += 1
        notes = []
        if result.finish_reason == "length" and not self._limit_given:
            notes.append("stopped at the output limit (--max-new-tokens)")
        if result.finish_reason == "repetition":
            notes.append("stopped because it repeated itself (--repetition-stop)")
        if result.input_truncated:
            notes.append("has an input that was cut to the model's positions (--truncate)")
        for note in notes:
            count_and_first = self._found.setdefault(note, [0, self._n_results])
            count_and_first[0] += 1

    def show(self, unit: str) -> None:
        """Write them to stderr."""
        for note, (count, first) in self._found.items():
            more = f" (and {count - 1} more)" if count > 1 else ""
            print(f"s2s-infer: note: the output of {unit} {first}{more} {note}", file=sys.stderr)
