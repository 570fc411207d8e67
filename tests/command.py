"""The command s2s-infer in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINT = str(FIXTURES / "checkpoints" / "marian-tiny")
IDS_ONLY = str(FIXTURES / "parity" / "relu-tied")
COMMAND = [sys.executable, "-m", "s2s_infer"]


def run(
    *arguments: str, stdin: bytes | str = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def output(*arguments: str, stdin: bytes | str = b"") -> str:
    """What a run that must succeed wrote."""
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def error(*arguments: str, stdin: bytes | str = b"", status: int = 2) -> str:
    """The one sentence of a run that must fail."""
    done = run(*arguments, stdin=stdin)
    message = done.stderr.decode()
    assert done.returncode == status, message
    assert message.startswith("s2s-infer: error: ") and message.count("\n") == 1, message
    assert "Traceback" not in message
    return message
