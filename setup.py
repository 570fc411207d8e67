"""Build flags only; everything else about the package is in pyproject.toml.

The C core is compiled as one static library per SIMD level, because each level needs its own
compiler flags, and linked into the one extension module `s2s_infer._core`.  For developers:

    S2S_DEBUG=1                      asserts on, no optimisation
    S2S_SANITIZE=address,undefined   (or: thread) instrumented build
    S2S_PROFILE=1                    counts the time of each operation (csrc/base/profile.h)

Each variant has its own folder under build/, so that switching never mixes objects.
"""

import os
import platform
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("S2S_SANITIZE", "")
DEBUG = bool(os.environ.get("S2S_DEBUG")) or bool(SANITIZE)
PROFILE = bool(os.environ.get("S2S_PROFILE"))
BUILD = "build/" + (SANITIZE.replace(",", "-") or ("debug" if DEBUG else "release"))
BUILD += "-profile" if PROFILE else ""

# No -march=native and no -ffast-math: one wheel serves every CPU, with the same bits on each.
# -ffp-contract=off: a fused multiply-add happens only where the source says fma.
CFLAGS = [
    "-std=c11",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-fPIC",
    "-Wall",
    "-Wextra",
]
CFLAGS += ["-UNDEBUG", "-Og", "-g1"] if DEBUG else ["-O3", "-g0"]
LDFLAGS = ["-Wl,-z,relro,-z,now,-z,noexecstack"]
if PROFILE:
    CFLAGS += ["-DS2S_PROFILE"]
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    LDFLAGS += [f"-fsanitize={SANITIZE}"]

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
LEVELS = {
    "x86_64": {
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": AVX512,
        "avx512vnni": [*AVX512, "-mavx512vnni"],
        "avx512amx": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
    },
    "aarch64": {"neon": []},
}
LEVELS["arm64"] = LEVELS["aarch64"]
LEVELS["AMD64"] = LEVELS["x86_64"]

HEADERS = sorted(map(str, Path("csrc").rglob("*.h")))
SOURCES = sorted(map(str, Path("csrc").rglob("*.c")))
SIMD_SOURCES = {f"csrc/kernels/{name}.c" for levels in LEVELS.values() for name in levels}


def library(name: str, sources: list[str], flags: list[str]) -> tuple[str, dict[str, object]]:
    build_info = {"sources": sources, "cflags": CFLAGS + flags, "obj_deps": {"": HEADERS}}
    return (f"s2s_{name}", build_info)


# The core comes first: it refers to the kernel tables, and the linker resolves left to right.
core = [source for source in SOURCES if source not in SIMD_SOURCES]
libraries = [library("core", core, [])]
for name, flags in LEVELS.get(platform.machine(), {}).items():
    if f"csrc/kernels/{name}.c" in SOURCES:
        libraries.append(library(name, [f"csrc/kernels/{name}.c"], flags))

# The stable ABI of Python 3.10: one wheel for every later version, but for free-threaded builds.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
extension = Extension(
    "s2s_infer._core",
    ["engine/s2s_infer/_core.pyx"],
    include_dirs=["csrc"],
    depends=HEADERS + SOURCES,  # or an edited kernel is silently not relinked
    define_macros=[("Py_LIMITED_API", "0x030A0000")] if ABI3 else [],
    extra_compile_args=[*CFLAGS, "-Wno-unused-parameter"],  # in code that Cython generates
    extra_link_args=[*LDFLAGS, "-lm", "-lpthread"],  # after the static libraries that need them
    py_limited_api=ABI3,
)

setup(
    libraries=libraries,
    ext_modules=cythonize([extension], build_dir=BUILD, language_level=3),
    options={
        "build": {"build_base": BUILD},
        "bdist_wheel": {"py_limited_api": "cp310"} if ABI3 else {},
    },
)
