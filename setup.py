"""Builds the compiled part. One extension per ``.pyx``; three flavours that never share objects.

``FLYPROXY_FLAVOUR``: ``release`` (in place), ``asan``, ``fuzz`` (both into ``build/FLAVOUR/lib``).
``FLYPROXY_ONLY``: comma-separated folders of ``_speedups`` to build; all of them by default.
"""

import importlib.util
import os
import platform
import runpy
import sys
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
SPEEDUPS = Path("flyproxy/_speedups")
CSRC = SPEEDUPS / "csrc"
COMMON = [
    "-std=gnu11", "-g1", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-Wall", "-Wextra",
    "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers", "-Wno-cast-function-type",
]
HARDEN = ["-fno-plt", "-fstack-protector-strong", "-Wp,-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE=2"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAVOURS = {
    "release": (["-O2", *HARDEN], ["-Wl,-z,relro,-z,now"]),
    "asan": (["-O1", "-DFLYPROXY_DEBUG=1", *SANITIZE], SANITIZE),
    "fuzz": (["-O1", "-DFLYPROXY_DEBUG=1", "-fsanitize=fuzzer-no-link,address,undefined"], SANITIZE),
}
GENERATED = "build/release/c"  # by Cython, for every flavour: they differ in how C is compiled
_TLS = ["ssl", "crypto"]
LIBRARIES = {"hello": ["crypto"], "tls": _TLS, "tls_context": _TLS, "_testing_tls": _TLS}  # by module
DIRECTIVES = {
    "language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False,
    "auto_pickle": False, "embedsignature": True, "binding": True, "warn.undeclared": False, "warn.unreachable": True,
}


def flavour() -> str:
    name = os.environ.get("FLYPROXY_FLAVOUR", "release")
    if name not in FLAVOURS:
        sys.exit(f"setup.py: FLYPROXY_FLAVOUR={name!r} is not one of {', '.join(FLAVOURS)}")
    return name


def write_if_changed(path: Path, text: str) -> None:
    """Keep the time stamp of an unchanged generated file, so that nothing is rebuilt for it."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def generate_errors() -> None:
    """errors.pxd and errors_table.h come from flyproxy/errors.py, which is run alone: nothing of ours is imported."""
    table = runpy.run_path(str(ROOT / "flyproxy/errors.py"))
    write_if_changed(ROOT / SPEEDUPS / "errors.pxd", table["render_pxd"]())
    write_if_changed(ROOT / CSRC / "errors_table.h", table["render_header"]())


def generate_hpack_tables() -> None:
    """hpack_tables.h comes from the tables of the hpack package."""
    tables = runpy.run_path(str(ROOT / CSRC / "make_hpack_tables.py"))
    write_if_changed(ROOT / CSRC / "hpack_tables.h", tables["render"]())


def picohttpparser() -> str:
    spec = importlib.util.find_spec("gunicorn_h1c")
    folder = Path(spec.submodule_search_locations[0], "picohttpparser") if spec else None
    if folder is None or not (folder / "picohttpparser.c").is_file():
        sys.exit("setup.py: picohttpparser.c not found; fix: pip install gunicorn_h1c==0.6.9")
    return str(folder)


def extensions() -> list[Extension]:
    only = [part for part in os.environ.get("FLYPROXY_ONLY", "").split(",") if part]
    cflags, ldflags = FLAVOURS[flavour()]
    headers = sorted(str(path) for path in CSRC.glob("*.h"))
    found = []
    for path in sorted(SPEEDUPS.rglob("*.pyx")):
        if only and path.parent.name not in only and path.stem not in only:
            continue
        if path.stem.startswith("_testing") and os.environ.get("FLYPROXY_WHEEL"):
            continue
        sources, includes = [str(path)], [str(CSRC), picohttpparser()]
        if path.parent.name == "proto" and path.stem == "pico":
            sources += [str(CSRC / "pico_sse42.c"), str(CSRC / "pico_plain.c")]
        found.append(Extension(
            ".".join(path.with_suffix("").parts), sources, include_dirs=includes, depends=headers,
            libraries=LIBRARIES.get(path.stem, []), extra_compile_args=[*COMMON, *cflags], extra_link_args=ldflags,
        ))
    if not found:
        sys.exit("setup.py: no .pyx found under flyproxy/_speedups; is the source distribution complete?")
    return found


class BuildExt(build_ext):
    """Compiles ``*_sse42.c`` with SSE4.2 on; the CPU is asked at import which object to use."""

    def build_extensions(self) -> None:
        inner = self.compiler._compile

        def compile_one(obj, src, ext, cc_args, postargs, pp_opts):
            extra = ["-msse4.2"] if src.endswith("_sse42.c") and platform.machine() == "x86_64" else []
            return inner(obj, src, ext, cc_args, [*postargs, *extra], pp_opts)

        self.compiler._compile = compile_one
        super().build_extensions()


Options.warning_errors = True
generate_errors()
generate_hpack_tables()
setup(
    ext_modules=cythonize(
        extensions(), compiler_directives=DIRECTIVES, build_dir=GENERATED, nthreads=os.cpu_count() or 1,
    ),
    cmdclass={"build_ext": BuildExt},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
