"""Builds the C core without Python and runs each program of tests/c (as `make c-test` does)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = sorted(path.stem for path in (ROOT / "tests" / "c").glob("test_*.c"))

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("cc")), reason="needs make and a C compiler"
)


def run(*command: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.parametrize("program", PROGRAMS)
def test_c_unit(program: str) -> None:
    run("make", "-s", "-j2", "-C", "tests/c", f"check-{program}")


def test_there_are_c_units() -> None:
    assert len(PROGRAMS) >= 3
