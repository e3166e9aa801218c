"""Runs Python scripts in forks of one process that has imported the packages of training: seconds less per script.

A script sees what `python SCRIPT …` would: its folder first in `sys.path`, its flags, working directory, environment,
standard streams and, if asked for, the ranks of torchrun. Neither latentc nor its runtime is imported.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

MEETING = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
DIGITS = 5  # of a port
PREPARED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # what packages read when they are imported


def python(
    folder: Path, *command: str, ranks: int = 1, env: Mapping[str, str] | None = None, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """As `python COMMAND` in a folder: a script and its flags, `-m MODULE` or `-c CODE`; `before` runs first.

    With several `ranks` the output is that of all, one after another, and the status the first that is not 0.
    """
    done = by_rank(folder, *command, ranks=ranks, env=env, before=before)
    status = next((one.returncode for one in done if one.returncode), 0)
    out, err = "".join(one.stdout for one in done), "".join(one.stderr for one in done)
    return subprocess.CompletedProcess(command, status, out, err)


def by_rank(
    folder: Path, *command: str, ranks: int, env: Mapping[str, str] | None = None, before: str = ""
) -> list[subprocess.CompletedProcess[str]]:
    """As `python`, each rank for itself."""
    with tempfile.TemporaryDirectory() as logs:
        job = _job(folder, command, env, before) | {"logs": [str(Path(logs, str(rank))) for rank in range(ranks)]}
        return [
            subprocess.CompletedProcess(command, status, *(Path(f"{log}.{end}").read_text() for end in ("out", "err")))
            for status, log in zip(_server().ask(job), job["logs"], strict=True)
        ]


def run_training(project: Path, arguments: Sequence[str], processes: int, log: Path | None = None) -> None:
    """As `latentc.api.training.run_training`, in whose place tests put it."""
    done = python(project, "train.py", *arguments, ranks=processes)
    if log is not None:
        log.write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]


class Started:
    """A script that runs beside the tests, as `subprocess.Popen` of `python COMMAND` with its output piped."""

    def __init__(self, folder: Path, *command: str, before: str = "") -> None:
        self._logs, self.command = tempfile.TemporaryDirectory(), command
        log = Path(self._logs.name, "0")
        os.mkfifo(f"{log}.out")
        job = _job(folder, command, None, before) | {"logs": [str(log)], "beside": True}
        (self.pid,) = _server().ask(job)
        self._status = Path(f"{log}.status")
        self.stdout: TextIO = open(f"{log}.out")  # noqa: PTH123, SIM115

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs."""
        return int(self._status.read_text()) if self._status.exists() else None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        end = time.monotonic() + timeout
        while (status := self.returncode) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.command, timeout)
            time.sleep(0.005)
        return status

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """What it still writes until it ends, and all of its standard error."""
        said = self.stdout.read()
        self.stdout.close()
        self.wait(timeout)
        return said, Path(self._logs.name, "0.err").read_text()

    def rest(self) -> str:
        """What it still writes until it ends."""
        return self.communicate()[0]


def _job(folder: Path, command: Sequence[str], env: Mapping[str, str] | None, before: str) -> dict[str, Any]:
    given = {**os.environ, **PREPARED, **(env or {})}
    return {"folder": str(folder.resolve()), "command": command, "before": before, "env": given, "limit": 300}


class _Server:
    """The process that forks; started once per test process."""

    def __init__(self) -> None:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | PREPARED
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        atexit.register(self.process.kill)

    def ask(self, job: Mapping[str, Any]) -> list[int]:
        """The exit statuses of the ranks of a job, or the process of one that runs beside."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer: list[int] = json.loads(self.process.stdout.readline())
        return answer


@cache
def _server() -> _Server:
    return _Server()


# ---- in the server


def serve() -> dict[str, Any]:
    """Forks for every job on standard input; returns in each child, with its job."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job, children = json.loads(line), list[int]()
        beside = job.get("beside", False)
        if beside and os.fork():  # the other one waits in place of the server
            continue
        ranks = len(job["logs"])
        told, tell = os.pipe()
        for rank, log in enumerate(job["logs"]):
            if not (child := os.fork()):
                answers.close()
                if ranks > 1:
                    job["env"] |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
                    job["env"] |= {**MEETING, "MASTER_PORT": os.read(told, DIGITS).decode()}
                return {**job, "log": log}
            children.append(child)
        store = _store() if ranks > 1 else None  # created after the forks, because it has a thread
        if store is not None:
            os.write(tell, f"{store.port:0{DIGITS}}".encode() * ranks)
        if beside:
            print(json.dumps(children), file=answers, flush=True)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        del store
        os.close(told)
        os.close(tell)
        if beside:
            written = Path(f"{job['logs'][0]}.ended")
            written.write_text(str(statuses[0]))
            written.rename(f"{job['logs'][0]}.status")
            os._exit(0)
        print(json.dumps(statuses), file=answers, flush=True)
    raise SystemExit(0)


def _store() -> Any:
    """The store where ranks meet. As with torchrun, they do not host it: nobody else can take its port before them."""
    return torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def become(job: Mapping[str, Any]) -> Sequence[str]:
    """Makes this process that of a job; returns its command."""
    import signal

    signal.alarm(job["limit"])
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    for number, end in ((1, "out"), (2, "err")):
        stream = os.open(f"{job['log']}.{end}", os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, number)
        os.close(stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    before = [path for path in job["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    command: Sequence[str] = job["command"]
    script = command[0] not in ("-c", "-m")
    sys.path[:] = [str(Path(command[0]).resolve().parent) if script else "", *before, *sys.path[1:]]
    sys.argv = list(command if script else [command[0], *command[2:]])
    return command


# ---- in a child


class _Ending:
    """Ends a child in a hundredth of the second that Python takes to tear down PyTorch.

    Created before any other exit hook, so that it runs when all of them have, and all threads have ended.
    """

    def __init__(self) -> None:
        self.status: int | None = None  # None: left to Python
        atexit.register(self.end)

    def run(self, command: Sequence[str]) -> None:
        """Runs a command as `python COMMAND` would; errors are left to Python, which prints them."""
        try:
            if command[0] == "-c":
                exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
            elif command[0] == "-m":
                runpy.run_module(command[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(command[0], run_name="__main__")
            self.status = 0
        except SystemExit as error:
            code = 0 if error.code is None else error.code
            self.status = code & 0xFF if isinstance(code, int) else 1
            raise
        except Exception:
            self.status = 1
            raise

    def end(self) -> None:
        if self.status is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.status)


if __name__ == "__main__":
    ending = _Ending()
    import safetensors.torch  # noqa: F401
    import sklearn.datasets
    import torch
    import torch._decomp.decompositions_for_jvp
    import torch._dynamo
    import torch.distributed.checkpoint.state_dict
    import torch.distributed.fsdp
    import torch.utils.tensorboard
    import yaml  # noqa: F401

    os.fsync = lambda file: None  # what tests write need not survive a power cut
    digits = cache(sklearn.datasets.load_digits)  # read from a text file
    digits(return_X_y=True)
    sklearn.datasets.load_digits = digits
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # collections in children neither visit nor copy these objects
    job = serve()
    command = become(job)
    exec(job["before"], {})
    ending.run(command)
