"""Fuzzes the codecs under address and undefined-behaviour sanitizers.

    python tests/fuzz/run.py [--seconds 20] [TARGET...]

Builds the compiled part with clang-14 into build/fuzz/lib and the driver into build/fuzz/driver, then runs libFuzzer on
each target, beginning with the seeds in tests/fuzz/corpus/TARGET; what it learns stays in build/fuzz/corpus/TARGET. A
crash is kept as build/fuzz/crash-*: copy it to tests/fuzz/corpus/TARGET, where test_corpus.py replays it for ever.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/fuzz"
SEEDS = ROOT / "tests/fuzz/corpus"
TARGETS = ("request", "response", "chunked", "proxy", "hello", "hpack", "frames")
CLANG = "clang-14"
SANITIZE = "-fsanitize=fuzzer,address,undefined"


def build() -> Path:
    """The driver, built with everything that it loads."""
    if shutil.which(CLANG) is None:
        sys.exit(f"tests/fuzz/run.py: {CLANG} is missing; fix: apt-get install {CLANG} libclang-rt-14-dev")
    env = os.environ | {
        "FLYPROXY_FLAVOUR": "fuzz", "FLYPROXY_ONLY": "mem,proto,_testing_fuzz", "CC": CLANG,
        "LDSHARED": f"{CLANG} -shared",
    }
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(BUILD), "--build-lib", str(BUILD / "lib")]
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    driver = BUILD / "driver"
    include, libdir = sysconfig.get_paths()["include"], sysconfig.get_config_var("LIBDIR")
    library = f"-lpython{sysconfig.get_config_var('LDVERSION')}"
    subprocess.run([
        CLANG, "-g", "-O1", SANITIZE, "-fno-sanitize-recover=undefined", f"-I{include}",
        str(ROOT / "tests/fuzz/driver.c"),
        f"-L{libdir}", f"-Wl,-rpath,{libdir}", library, "-o", str(driver),
    ], check=True)
    return driver


def fuzz(driver: Path, target: str, seconds: int) -> bool:
    """True when `seconds` of inputs broke nothing."""
    learnt = BUILD / "corpus" / target
    learnt.mkdir(parents=True, exist_ok=True)
    env = os.environ | {
        "FLYPROXY_FUZZ": target, "PYTHONPATH": str(BUILD / "lib"), "PYTHONHOME": sys.base_prefix,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    dictionary = ROOT / "tests/fuzz/http.dict"
    print(f"== {target}", flush=True)
    return subprocess.run([
        str(driver), f"-max_total_time={seconds}", "-max_len=4096", "-print_final_stats=1", "-verbosity=0",
        "-use_value_profile=1",
        f"-dict={dictionary}", f"-artifact_prefix={BUILD}/", str(learnt), str(SEEDS / target),
    ], env=env).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the codecs of proto/.")
    parser.add_argument("--seconds", type=int, default=20, help="in all, shared by the targets (default 20)")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="default: all")
    options = parser.parse_args()
    targets = options.targets or TARGETS
    driver = build()
    failed = [target for target in targets if not fuzz(driver, target, max(1, options.seconds // len(targets)))]
    if failed:
        print(f"broken: {', '.join(failed)}; the inputs are build/fuzz/crash-*", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
