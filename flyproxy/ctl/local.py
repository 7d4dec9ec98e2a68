"""What this host's files and environment say, without asking a process: the settings and the runtime directory."""

from __future__ import annotations

import os
from collections.abc import Callable

from flyproxy.ctl.failure import Failure
from flyproxy.settings import DEFAULT_FILE, Loaded, Settings, SettingsError, load_with_origins

FALLBACK = "/run/flyproxy"


def load(config: str | None) -> Loaded:
    """The settings with their origins; a Failure with every problem as FILE:LINE:COL when they cannot be used."""
    try:
        return load_with_origins(config, os.environ)
    except SettingsError as error:
        first = error.problems[0]
        raise Failure("bad_settings", "the settings cannot be used", f"{first.file}:{first.line}:{first.column}",
                      "mend the lines above, or name the running daemon's directory with --socket DIR",
                      tuple(str(problem) for problem in error.problems)) from None


def runtime_directory(settings: Callable[[], Settings], config: str | None) -> str:
    """FLYPROXY_RUNTIME_DIR, else the file's, else systemd's, else the default."""
    if given := os.environ.get("FLYPROXY_RUNTIME_DIR"):
        return given
    if config or os.environ.get("FLYPROXY_CONFIG") or os.path.exists(DEFAULT_FILE):
        return settings().paths.runtime
    return os.environ.get("RUNTIME_DIRECTORY", FALLBACK).split(":")[0]
