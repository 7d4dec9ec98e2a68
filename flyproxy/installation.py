"""Whether all of flyproxy is installed and fits together: every module of it can be imported."""

from __future__ import annotations

import traceback
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import flyproxy

FOLDER = str(Path(__file__).resolve().parent)
_DOORS = ("__main__", "_testing")  # modules that run when imported, and those of the tests


def problem() -> str:
    """What cannot be imported and why; empty when all is well. Takes about a second."""
    found: list[str] = []
    for module in walk_packages(flyproxy.__path__, "flyproxy.", onerror=found.append):
        last = module.name.rpartition(".")[2]
        try:
            if not last.startswith(_DOORS):
                import_module(module.name)
        except Exception as error:  # noqa: BLE001  of a broken installation, anything
            return f"{module.name} cannot be imported: {type(error).__name__}: {error} ({_place(error)})"
    return f"{found[0]} cannot be imported" if found else ""


def _place(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
