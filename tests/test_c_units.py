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


@pytest.mark.parametrize(
    ("sanitizers", "target"), [("address,undefined", "check-low"), ("thread", "check-test_pool")]
)
def test_c_units_under_sanitizers(sanitizers: str, target: str, tmp_path: Path) -> None:
    """base/ and kernels/ only, in a folder of its own; `make sanitize` runs them all."""
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    flags = [f"-fsanitize={sanitizers}", str(probe), "-o", str(tmp_path / "probe")]
    if subprocess.run(["cc", *flags], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"the compiler has no -fsanitize={sanitizers}")
    build = tmp_path / "build"
    run("make", "-s", "-j2", "-C", "tests/c", target, f"SANITIZE={sanitizers}", f"BUILD={build}")


def test_there_are_c_units() -> None:
    assert len(PROGRAMS) >= 3
