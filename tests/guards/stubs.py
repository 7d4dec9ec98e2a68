"""Checks every .pyi of the compiled part against the module that was built from it.

python tests/guards/stubs.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What Cython adds to every module and class, and no stub tells; a cdef class tells no signature of its constructor.
ALLOWED = (
    r".*\.__pyx_capi__",
    r".*\.__test__",
    r".*\.__reduce(_cython)?__",
    r".*\.__setstate(_cython)?__",
    r".*\.__init__",
)


def main() -> int:
    stubs = sorted((ROOT / "flyproxy").rglob("*.pyi"))
    modules = [".".join(stub.relative_to(ROOT).with_suffix("").parts) for stub in stubs]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as allow:
        allow.write("\n".join(ALLOWED) + "\n")
        allow.flush()
        command = [
            sys.executable,
            "-m",
            "mypy.stubtest",
            *modules,
            "--allowlist",
            allow.name,
            "--ignore-unused-allowlist",
            "--ignore-disjoint-bases",
            "--concise",
        ]
        return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
