"""Functions of the user, named `FILE.py:FUNCTION` on the command line."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentc.diagnostics import DiagnosticError, nearest


class UserFunction:
    """A function of the user's file. `what` it is and its `option` are named in errors.

    Whatever goes wrong, in finding it or in the user's code, is a DiagnosticError: E0401 (no such file) or E0714.
    """

    def __init__(self, place: str, what: str, option: str) -> None:
        self.place, self.what, self.option = place, what, option
        file, colon, name = place.rpartition(":")
        if not colon or not file or not name:
            raise self.unusable("is not FILE.py:FUNCTION", f"write `{option} judge.py:judge`")
        self._function = self._imported(Path(file), name)

    def __call__(self, *args: Any) -> Any:
        try:
            return self._function(*args)
        except Exception as error:  # a user's code can raise anything
            raise self.unusable(f"failed: {type(error).__name__}: {error}") from error

    def unusable(self, what: str, mend: str | None = None) -> DiagnosticError:
        """Says what is wrong with it."""
        return DiagnosticError.of("E0714", f"the {self.what} {self.place} {what}", help=mend)

    def _imported(self, file: Path, name: str) -> Callable[..., Any]:
        if not file.is_file():
            mend = f"{self.option} takes FILE.py:FUNCTION"
            raise DiagnosticError.of("E0401", f"no such file: {file}", help=mend)
        spec = importlib.util.spec_from_file_location(f"latentc_{self.what}_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise self.unusable("is not in a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses and named tuples look up their module
        sys.path.insert(0, str(file.resolve().parent))  # its neighbours can be imported, as in a script
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # a user's code can raise anything
            raise self.unusable(f"cannot be imported: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(str(file.resolve().parent))
        function = getattr(module, name, None)
        if not callable(function):
            close = nearest(name, [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")])
            raise self.unusable("does not exist", f"did you mean `{close}`?" if close else None)
        return function
