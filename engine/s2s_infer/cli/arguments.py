"""What the subcommands' parsers share; decoding flags come from GENERATION_OPTIONS."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..generation import GENERATION_OPTIONS
from ..kinds import OptionKind

if TYPE_CHECKING:
    from ..model import Model


class UsageError(Exception):
    """The command line is wrong."""

    def __init__(self, problem: str, program: str) -> None:
        super().__init__(f"{problem} (see {program} --help).")


def suggestion(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the known word nearest to `word`, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with errors of one sentence; --num_beams is the same as --num-beams."""

    def __init__(self, command: str, usage: str, description: str, epilog: str = "") -> None:
        """usage: the command's own arguments in short."""
        super().__init__(
            prog=f"s2s-infer {command}",
            usage=f"s2s-infer {command} {usage}",
            description=description,
            epilog=epilog,
            formatter_class=_formatter,
            allow_abbrev=False,
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The values of the flags.  Raises UsageError."""
        arguments, unknown = self.parse_known_args(list(_hyphenated(argv)))
        if unknown:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            hint = suggestion(unknown[0].partition("=")[0], flags)
            if unknown[0].startswith("-") and not hint:
                hint = "; put -- before texts that begin with a hyphen"
            self.error(f"unknown argument {unknown[0]!r}{hint}")
        return arguments

    def error(self, message: str) -> NoReturn:
        raise UsageError(re.sub(r"^argument (\S+): must", r"\1 must", message), self.prog)


def _hyphenated(argv: Sequence[str]) -> Iterable[str]:
    """The arguments, underscores in flags made hyphens."""
    flags = True
    for argument in argv:
        flags = flags and argument != "--"
        if flags and re.match(r"--\w", argument):
            name, equals, value = argument.partition("=")
            argument = name.replace("_", "-") + equals + value
        yield argument


def _formatter(prog: str) -> argparse.HelpFormatter:
    """argparse makes one for each argument, and would import much to find the terminal's width."""
    try:
        width = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        try:
            width = os.get_terminal_size(1).columns
        except OSError:
            width = 100
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=min(width, 100))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """-m, --dtype, --kv-dtype, --threads, --isa: what `open_model` needs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model",
        metavar="PATH",
        help="a Hugging Face directory or a *.s2s file; by default the built-in model, which "
        "translates between Chinese and English",
    )
    group.add_argument(
        "--dtype",
        default="auto",
        metavar="TYPE",
        help="float32, bfloat16, int8, int4 or auto: how weights are held; auto is a *.s2s file's "
        "own type, float32 for a directory",
    )
    group.add_argument(
        "--kv-dtype",
        metavar="TYPE",
        help="float32 or bfloat16: how keys and values are kept; default: bfloat16 for an int8 "
        "model, else float32",
    )
    group.add_argument(
        "--threads",
        type=_typed(int, "an integer"),
        metavar="N",
        help="default: the CPUs that this process may use",
    )
    group.add_argument(
        "--isa",
        metavar="LEVEL",
        help="SIMD level: generic, avx2, avx512, ...; default: $S2S_ISA, else the best of this CPU",
    )


def open_model(arguments: argparse.Namespace) -> Model:
    """The model that the arguments name."""
    from ..opening import load

    return load(
        arguments.model,
        dtype=arguments.dtype,
        threads=arguments.threads,
        isa=arguments.isa,
        kv_dtype=arguments.kv_dtype,
    )


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """--to, --source-lang, --task: what `text_options` needs."""
    parser.add_argument("--to", metavar="LANG", help="target language, where a model has several")
    parser.add_argument(
        "--source-lang", metavar="LANG", help="the texts' language, where a model must know it"
    )
    parser.add_argument("--task", metavar="NAME", help="one of the model's tasks, which info lists")


def text_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """to, source_lang and task, as Model's methods take them."""
    return {"to": arguments.to, "source_lang": arguments.source_lang, "task": arguments.task}


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each decoding option."""
    group = parser.add_argument_group(
        "decoding",
        "Names and meanings are those of Hugging Face's GenerationConfig.  A model's own\n"
        "defaults go before those named here.  --no-NAME turns a switch off: --no-return-scores.",
    )
    for name, option in GENERATION_OPTIONS.items():
        kind: OptionKind = option.metadata["kind"]
        flag = "--" + name.replace("_", "-")
        details = [option.metadata["unit"]] if option.metadata["unit"] else []
        if isinstance(option.default, bool):
            if kind.metavar:
                details.append(f"default {str(option.default).lower()}")
            elif option.default:
                details.append("default on")
        elif option.default not in (None, ()):
            details.append(f"default {option.default}")
        text = option.metadata["help"] + (f" ({'; '.join(details)})" if details else "")
        if kind.metavar:
            group.add_argument(
                flag,
                dest=name,
                type=_typed(kind.parse, kind.expected),
                default=argparse.SUPPRESS,
                metavar=kind.metavar,
                help=text,
            )
        else:
            negative = "--no" + flag[1:]
            group.add_argument(
                flag, dest=name, action="store_true", default=argparse.SUPPRESS, help=text
            )
            group.add_argument(
                negative,
                dest=name,
                action="store_false",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The decoding options that were given."""
    given = vars(arguments)
    return {name: given[name] for name in GENERATION_OPTIONS if name in given}


def _typed(parse: Callable[[str], Any], expected: str) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {expected}, not {text!r}") from None

    return checked
