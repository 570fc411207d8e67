"""The command `s2s-infer`: one file per subcommand, imported only when it is run.

Exit status: 0 done; 2 wrong usage, options, input or model; 1 any other failure; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "translate": "translate texts, or lines of a file",
    "generate": "run any sequence-to-sequence model on texts, lines or token ids",
    "score": "log-probability of given outputs",
    "encode": "vectors of texts",
    "fill-mask": "tokens for the masks of a text (BERT and its kin)",
    "classify": "labels of texts, or of pairs of texts",
    "info": "describe a model: sizes, special tokens, defaults, threads",
    "convert": "write a model as one *.s2s file",
    "bench": "measure a model on this machine: speed, loading, memory",
    "trace": "write every intermediate tensor of one input to a file",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (None: the process's) and return the exit status."""
    try:
        if argv is None:
            argv = sys.argv[1:]
            _prepare_process()
        return _run(list(argv))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        print(f"s2s-infer: error: {_sentence(error)}", file=sys.stderr)
        return status


def _run(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    if command in COMMANDS:
        status: int = import_module(f".{command.replace('-', '_')}", __name__).run(rest)
        return status
    if command in ("-h", "--help", "help"):
        print(_help())
        return 0
    if command in ("-V", "--version"):
        from .. import __version__

        print(f"s2s-infer {__version__}")
        return 0
    from .arguments import UsageError, suggestion

    if not command:
        raise UsageError("a command is missing", "s2s-infer")
    raise UsageError(f"there is no command {command!r}{suggestion(command, COMMANDS)}", "s2s-infer")


def _help() -> str:
    commands = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    return (
        "usage: s2s-infer COMMAND ...\n\n"
        "Runs Transformers, encoder-decoder ones above all, on this machine's CPU.\n\n"
        f"commands:\n{commands}\n\n"
        "examples:\n"
        '  s2s-infer translate "今天天气很好"\n'
        "  s2s-infer translate --to zh -i english.txt -o chinese.txt\n"
        "  s2s-infer generate -m my-model/ --num-beams 4 --json < inputs.txt\n\n"
        "options:\n"
        "  -h, --help     this text; `s2s-infer COMMAND --help` for the options of a command\n"
        "  -V, --version  the version"
    )


def _prepare_process() -> None:
    """What a command of its own process needs, and a caller in Python would not want."""
    import signal

    # numpy's BLAS, which nothing here uses, would start its threads when numpy is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if hasattr(signal, "SIGPIPE"):  # end quietly when the reader of the output goes away
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: models speak UTF-8


def _status(error: Exception) -> int | None:
    """The exit status for an error that deserves one sentence; None for a bug."""
    from ..errors import S2SError
    from .arguments import UsageError

    if isinstance(error, (S2SError, UsageError)):
        return 2
    if isinstance(
        error, (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
    ):
        return 2
    if isinstance(error, (OSError, MemoryError)):
        return 1
    return None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = f"cannot use {error.filename}: " if error.filename is not None else ""
        return f"{name}{error.strerror}."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "?", "!")) else text + "."
