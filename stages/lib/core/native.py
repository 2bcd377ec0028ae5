"""C files of this project as shared libraries, compiled on the machine that runs them and kept by their content.

    python -m stages.lib.core.native     compile all of them now (`make setup` does), else each is compiled at its first use

The compiler is a wheel (ziglang), so no system package is needed; $CC takes another one. Compiled code only makes things
faster: whoever loads a library has a way without it that gives the same bits, and `None` says that it must be taken.
TUTELAGE_NATIVE=0 takes it everywhere.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.resources
import importlib.util
import logging
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)
# Bits must not depend on the compiler: no fused multiply-add where the source has two roundings, signed overflow wraps.
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=off", "-fwrapv", "-fno-math-errno", "-Wall")
LEVELS = {
    "x86_64_v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma", "bmi2"},
    "x86_64_v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
    "x86_64_v2": {"sse4_2", "ssse3", "popcnt"},
}
"""Instruction sets of x86-64 by generation, and the flags of /proc/cpuinfo that show them."""


@functools.cache
def library(source: str) -> ctypes.CDLL | None:
    """The compiled C file `source`, a path in this repository such as "stages/lib/data/photo.c"; None: do without.

    Compiled first where no library of this very content is there. Calls through ctypes do not hold the GIL.
    """
    if os.environ.get("TUTELAGE_NATIVE") == "0":
        return None
    package, _, below = source.partition("/")
    code = importlib.resources.files(package).joinpath(below).read_bytes()
    command = compiler()
    target = folder() / f"{Path(source).stem}-{_name(code, command)}.so"
    try:
        with contextlib.suppress(OSError):  # absent, or cut short by a full disk
            return ctypes.CDLL(str(target))
        _compile(code, command, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", None) or error
        log.warning("%s could not be compiled, so the slower way with the same results is taken: %s", source, told)
        return None


def compiler() -> list[str]:
    """The command that compiles C: $CC, else ziglang's. Empty: none."""
    if chosen := os.environ.get("CC"):
        return shlex.split(chosen)
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else []


def folder() -> Path:
    """Where libraries are kept: in the environment that Python runs in."""
    return Path(sys.prefix) / "lib" / "tutelage"


@functools.cache
def level() -> str:
    """The newest generation of x86-64 this processor belongs to; empty: another processor, or an older one."""
    if platform.machine() != "x86_64":
        return ""
    try:
        listed = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    flags = set(next((line for line in listed.splitlines() if line.startswith("flags")), "").split())
    return next((name for name, needed in LEVELS.items() if needed <= flags), "")


def _compile(code: bytes, command: list[str], target: Path) -> None:
    """Compile into a temporary file, then rename: two processes that do it at once both end with a whole library."""
    if not command:
        raise OSError("there is no C compiler; `pip install ziglang` brings one, or set CC")
    began = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    # zig spells a generation x86_64_v3, gcc x86-64-v3
    generation = level() if "ziglang" in command else level().replace("_", "-")
    machine = [f"-march={generation}"] if generation else []
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        (Path(place) / "code.c").write_bytes(code)
        parts = [*command, *FLAGS, *machine, f"{place}/code.c", "-o", f"{place}/made.so", "-lm"]
        # zig keeps what it has built of its own libraries; a home folder to keep it in is not everywhere.
        environment = {"ZIG_GLOBAL_CACHE_DIR": f"{sys.prefix}/lib/tutelage/zig", **os.environ}
        subprocess.run(parts, check=True, capture_output=True, text=True, env=environment)
        Path(f"{place}/made.so").replace(target)
    log.info("compiled %s in %.1f s", target.name, time.monotonic() - began)


def _name(code: bytes, command: list[str]) -> str:
    """Of a library: what it was made of, how, and for which processors."""
    made = b"\0".join([code, *map(str.encode, (*command[-2:], *FLAGS))])
    return f"{hashlib.sha256(made).hexdigest()[:16]}-{level() or platform.machine()}"


def main() -> None:
    """Compile every C file under stages/."""
    root = importlib.resources.files("stages")
    assert isinstance(root, Path)
    for path in sorted(root.rglob("*.c")):
        library(f"stages/{path.relative_to(root)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
