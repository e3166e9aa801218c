"""Packages that are missing, and Ctrl-C while they are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MISSING = "import sys; sys.modules[{module!r}] = None; sys.argv = ['latentc', *{args!r}]; "
INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "yaml":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("numpy failed to import") from None
sys.meta_path.insert(0, Finder())
sys.argv = ["latentc", "check", "digits_dit"]
"""
RUN = "from latentc.__main__ import main; main()"


def run(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code + RUN], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    ("module", "package", "args"),
    [
        ("yaml", "pyyaml", ["check", "digits_dit"]),
        ("networkx", "networkx", ["show", "digits_dit", "--svg", "graph.svg"]),
    ],
    ids=["at once", "when it is needed"],
)
def test_a_missing_package_is_named(module: str, package: str, args: list[str], tmp_path: Path) -> None:
    done = run(MISSING.format(module=module, args=args), cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error[E0706]")
    assert f"pip install {package}" in done.stderr and not list(tmp_path.iterdir())


def test_doctor_survives_a_missing_package() -> None:
    done = run(MISSING.format(module="yaml", args=["doctor"]))
    assert done.returncode == 1 and "pip install pyyaml" in done.stdout and not done.stderr


def test_an_interruption_that_an_import_hides_is_no_fault_of_ours() -> None:
    done = run(INTERRUPTED)
    assert done.returncode == 130 and done.stderr == "interrupted\n"


def test_an_interruption_that_the_shell_ignores_stays_ignored() -> None:
    """As in the background of a script."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "import sys; sys.argv = ['latentc', '--version']; import atexit; "
    code += "atexit.register(lambda: print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)); "
    assert run(code).stdout.splitlines()[-1] == "True"
