"""The commands of the documentation: found in the pages' ```sh blocks, and run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from unittest.mock import patch

from forked import python, run_training

from latentc.api import training
from latentc.cli import run

sys.path.append(str(Path(__file__).parents[1] / "serve"))

from served import served

ROOT = Path(__file__).parents[2]

# What a test cannot run, and why.
ELSEWHERE = {
    "docker": "needs its images",
    "tritonserver": "needs NVIDIA's server",
    "kubectl": "needs a cluster",
    "sbatch": "needs a cluster",
    "python3": "makes a virtual environment",
    ".": "activates it",
}
# Verbs and words of command lines of which tests of pages read the options alone, and why.
READ = {
    "push": "needs the Hub: tests/cli/test_hub.py",
    "pull": "needs the Hub",
    "hub:": "needs the Hub",
    "official:": "needs the network: tests/cli/test_official_checkpoints.py",
    "sweep": "trains for minutes: tests/sweep",
    "league": "trains for minutes: tests/league",
    "swept/": "has no result of a sweep",
    "runs": "has no runs yet: tests/runs",
}
# Options that make a verb quick; the rest of a command line runs as it stands.
QUICK = {
    "tune": ["--samples", "16", "--evaluations", "48", "--seconds", "3"],
    "train": ["--steps", "4"],
    "evaluate": ["--count", "40"],
    "verify": ["--budget", "2"],
}


@dataclass(frozen=True)
class Command:
    """A line of a block, without comments, with its continuation lines."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """(number of the first line, text) of each block in a language."""
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in found]


def commands(page: Path) -> list[Command]:
    """The commands of a page, in order."""
    found = []
    for first, block in blocks(page.read_text(encoding="utf-8"), "sh"):
        for match in re.finditer(r"(?:[^\n]*\\\n)*[^\n]+", block):
            line = first + block.count("\n", 0, match.start())
            for part in re.split(r"\s&&\s", match[0].replace("\\\n", " ")):
                if words := shlex.split(part, comments=True):
                    found.append(Command(str(page.relative_to(ROOT)), line, tuple(words)))
    return found


def execute(command: Command, folder: Path) -> str | None:
    """Run a command in a folder, with the options of QUICK; what went wrong, or None."""
    words = dropwhile(lambda word: re.match(r"[A-Z_]+=", word), command.words)  # the environment
    program, *args = words
    match program:
        case "latentc":
            return _latentc(args)
        case "pip":
            return _extras(args)
        case "curl":
            return _asked(args, folder)
        case "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            return None if args[0] in targets else f"no target {args[0]}"
        case "python" | "torchrun":
            return _python(program, args, folder)
        case _ if program in ELSEWHERE:
            return None
    return f"`{program}` is neither run nor listed as something that tests cannot run"


def _latentc(args: Sequence[str]) -> str | None:
    quick = QUICK.get(args[0], [])
    if args[0] == "compile" and any(arg.startswith("optimize.quantize") for arg in args):
        quick = ["--force"]  # a small one gains nothing
    if args[0] == "serve":
        return _served(args)
    if args[0] in READ or any(word in arg for arg in args for word in READ if not word.isalpha()):
        quick = ["--help"]  # after options that do not exist have been refused
    with patch.object(training, "run_training", run_training):
        status = run([*args, *quick])
    return f"exit status {status}" if status else None


def _served(args: Sequence[str]) -> str | None:
    """A server that starts on any free port, says its address, and is stopped."""
    line = [sys.executable, "-m", "latentc", *args, "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        started = child.stdout.readline()
        address = re.search(r"http://[\d.:]+", started)
        child.terminate()
        _, err = child.communicate(timeout=300)
    return None if address and child.returncode == 0 else f"no address in {started!r}\n{err[-2000:]}"


def _asked(args: Sequence[str], folder: Path) -> str | None:
    """curl, with the address of a server of the folder's bundles in place of the usual one."""
    line = ["curl", "--silent", "--show-error", "--fail-with-body", "--retry", "5", "--retry-all-errors", *args]
    with served(*(f"{path.stem}={path}" for path in folder.glob("*.latentc"))) as (web, _):
        line = [word.replace("http://127.0.0.1:8000", str(web.base_url).rstrip("/")) for word in line]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr if done.returncode else None


def _extras(args: Sequence[str]) -> str | None:
    """What pip installs of this project must be an extra of it."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = {
        name for arg in args for names in re.findall(r"(?:\.|latentc)\[([^]]+)]", arg) for name in names.split(",")
    }
    return f"no extra {sorted(asked - set(known))}" if asked - set(known) else None


def _python(program: str, args: Sequence[str], folder: Path) -> str | None:
    """A script of a project that an earlier command wrote, in two processes at most."""
    script = next((i for i, arg in enumerate(args) if arg.endswith(".py")), None)
    if script is None:
        return "runs no file"
    file = args[script]
    project = next((p.parent for p in sorted(folder.rglob(file))), None)
    if project is None:
        return None if (ROOT / file).is_file() else f"there is no {file}"
    flags = [*args[script + 1 :], *(QUICK["train"] if file == "train.py" else [])]
    done = python(project, file, *flags, ranks=2 if program == "torchrun" else 1)
    return done.stderr[-2000:] if done.returncode else None
