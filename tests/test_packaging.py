"""What is installed is what the README promises: dependencies, size, a stable-ABI extension."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import s2s_infer
from s2s_infer import _core

PACKAGE = Path(s2s_infer.__file__).parent
EXTENSION = Path(_core.__file__)
PT_GNU_STACK, PT_GNU_RELRO = 0x6474E551, 0x6474E552
EXECUTABLE, WRITABLE = 1, 2

elf_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")


def segments() -> dict[int, int]:
    """Type -> flags of the extension's ELF64 program headers."""
    data = EXTENSION.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return dict(struct.unpack_from("<II", data, offset + i * size) for i in range(count))


def test_run_time_dependencies_are_three() -> None:
    requires = distribution("s2s-infer").requires or []
    names = {re.split(r"[^\w-]", r)[0] for r in requires if "extra ==" not in r}
    assert names == {"numpy", "tokenizers", "sentencepiece"}


def test_import_loads_nothing_else() -> None:
    code = (
        "import sys, s2s_infer; s2s_infer.Model; s2s_infer.load; "
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'ctranslate2', 'scipy'}; "
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command_is_installed() -> None:
    scripts = distribution("s2s-infer").entry_points.select(group="console_scripts")
    assert [(s.name, s.value) for s in scripts] == [("s2s-infer", "s2s_infer.cli:main")]


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


def test_package_without_the_model_is_small() -> None:
    files = [f for f in PACKAGE.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    size = sum(f.stat().st_size for f in files if f.parent.name != "models")
    assert size < 5_000_000
    models = list((PACKAGE / "models").glob("*.s2s"))
    assert sum(f.stat().st_size for f in models) < 8_000_000


@elf_only
def test_extension_uses_the_stable_abi_and_exports_one_symbol() -> None:
    assert EXTENSION.name == "_core.abi3.so"
    exported = subprocess.run(
        ["nm", "-D", "--defined-only", EXTENSION], capture_output=True, text=True, check=False
    )
    if exported.returncode:
        pytest.skip("needs nm of binutils")
    assert [line.split()[-1] for line in exported.stdout.splitlines()] == ["PyInit__core"]


@elf_only
def test_extension_has_no_executable_stack_and_is_relocated_read_only() -> None:
    found = segments()
    assert not found[PT_GNU_STACK] & EXECUTABLE
    assert PT_GNU_RELRO in found
    assert not any(flags & EXECUTABLE and flags & WRITABLE for flags in found.values())
