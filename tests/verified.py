"""Verifies the tiny systems and writes docs/verified.json, from which the page of systems says what passes.

Of each system: what `latentc verify --training` compares (losses, gradients, all methods on both CPU engines), and its
programs in every loop form on both CPU engines as `latentc verify` compares them. The methods are those of every form,
so they are not compared again; PyTorch's programs are compared in the first form, and the oracle runs once for all.

    python tests/verified.py                  # those that the file does not have yet
    python tests/verified.py --again          # all
    python tests/verified.py --only edm var   # these, again

The file is written after every system, so that a run which is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from bundles import tiny_bundle
from tiny_systems import SYSTEMS, Tiny

from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES
from latentc.engines.contract import installed
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.measure.subject import Subject, open_subject
from latentc.spec import load_spec
from latentc.verify import run as verification
from latentc.verify.report import Report
from latentc.verify.training import CPU_ENGINES, verify_training

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "verified.json"
FORMS = ("loop", "host", "unroll")
MOST = 16
"""Network evaluations up to which loops are unrolled: longer graphs take minutes to compile and show nothing new."""

SIZES = {"loop": (1, 2)}
"""Batches by form, elsewhere 1: engines compile for each, and methods are compared in batches of three."""

ENDLESS = 1e9  # seconds: nothing is left out
PASSES = "passes"


class Remembering(Interpreter):
    """The oracle, which runs an entry with the same inputs once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.known: dict[Any, tuple[Any, ...]] = {}

    def run(self, function: str, *inputs: Any, prefix: str = "") -> tuple[Any, ...]:
        key = (function, prefix, *(np.asarray(x).tobytes() for x in inputs))
        if key not in self.known:
            self.known[key] = super().run(function, *inputs, prefix=prefix)
        return self.known[key]


class Oracles:
    """The oracles of a system's bundles, which all have the same weights; those with changed weights too."""

    def __init__(self) -> None:
        self.known: dict[Any, Remembering] = {}

    def of(self, subject: Subject, changed: Mapping[str, Any], float_dtype: str = "f64") -> Interpreter:
        key = (float_dtype, *((path, array.tobytes()) for path, array in changed.items()))
        if key not in self.known:
            weights = {**subject.measured, **changed}
            self.known[key] = Remembering(subject.lowered.module, weights, float_dtype)
        return self.known[key]


def in_form(tiny: Tiny, engine: str, form: str, oracles: Oracles, torch: bool) -> str:
    """Whether the programs of a system pass in a loop form on an engine, or what keeps them from it."""
    with tempfile.TemporaryDirectory(prefix="latentc-verified-") as folder:
        overrides, sizes = (*tiny.sizes, f"target.engine={engine}"), SIZES.get(form, (1,))
        how: dict[str, Any] = {"variant": tiny.variant, "form": form, "max_batch": max(sizes)}
        try:
            path = tiny_bundle(tiny.spec, Path(folder) / "bundle", overrides, **how)
        except DiagnosticError as error:
            return f"is refused: {error.diagnostics[0].message}"
        subject = open_subject(path)
        subject.oracle_with = functools.partial(oracles.of, subject)  # type: ignore[method-assign]
        with (
            mock.patch.object(verification, "SIZES", sizes),
            mock.patch.object(verification, "called_methods", lambda *given: []),
            mock.patch.object(verification._Verification, "_torch_works", lambda self: torch),
            mock.patch.object(verification._Verification, "_locate", lambda self, methods: None),
        ):
            quiet = lambda done, total, what: None  # noqa: E731
            return outcome(verification._Verification(subject, ENDLESS, 0, quiet).report())


def outcome(report: Report) -> str:
    """`passes`, or the worst comparison that does not.

    A changed weight of one network must show. In a program, those of others may not: the weights of a prior that draws
    a condition change a sample by less than its tolerance.
    """
    failed = [c for c in report.comparisons if not c.ok]
    if not failed:
        blind = "compares nothing" if not report.comparisons else "differs from no changed weight"
        return PASSES if report.comparisons and any(control.ok for control in report.controls) else blind
    worst = max(failed, key=lambda c: c.error / (c.tolerance or 1e-9))
    error = f"error {worst.error:.1e}, tolerance {worst.tolerance:.1e}"
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{worst.what} at {worst.point}, {worst.candidate}: {error}{more}"


def parts(name: str, note: Callable[[dict[str, Any]], None], known: Mapping[str, str]) -> None:
    """Notes {place: outcome} of what is verified of a system, each place first with None; leaves places in `known`."""
    tiny = SYSTEMS[name]
    lowered = lower(spec := load_spec(tiny.spec, tiny.variant, list(tiny.sizes)))
    if "training" not in known:
        note({"training": None})
        report = verify_training(spec, lowered, name, budget=ENDLESS)
        skipped = sorted({f"{one.what}: {one.why}" for one in report.skipped})
        note({"training": outcome(report), **({"skipped": skipped} if skipped else {})})
    oracles, longest = Oracles(), max((program.evaluations for program in lowered.programs), default=0)
    places = [(engine, form) for engine in CPU_ENGINES for form in FORMS if lowered.programs]
    for engine, form in places:
        place = f"{engine}, {form}"
        if form == "unroll" and longest > MOST:
            note({place: f"not run: {longest} evaluations"})
        elif place not in known:
            note({place: None})
            note({place: in_form(tiny, engine, form, oracles, torch=(engine, form) == places[0])})


def verified(name: str) -> dict[str, Any]:
    """The entry of a system. A child process does the work, so an engine that crashes ends nothing else."""
    tiny, begin = SYSTEMS[name], time.perf_counter()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="latentc-verified-") as folder:
        notes = Path(folder) / "notes"
        while True:
            notes.write_text("")
            if (child := os.fork()) == 0:
                with notes.open("a", encoding="utf-8", buffering=1) as file:
                    code = 1
                    try:
                        parts(name, lambda found: print(json.dumps(found), file=file, flush=True), found)
                        code = 0
                    finally:
                        if code:
                            traceback.print_exc()
                        os._exit(code)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for line in notes.read_text(encoding="utf-8").splitlines():
                found |= json.loads(line)
            unfinished = [place for place, text in found.items() if text is None]
            found |= dict.fromkeys(unfinished, f"ends with signal {-status}" if status < 0 else "raises an error")
            if not unfinished:
                break
    forms = {
        engine: {form: found[place] for form in FORMS if (place := f"{engine}, {form}") in found}
        for engine in CPU_ENGINES
    }
    entry = {"spec": tiny.spec, "variant": tiny.variant, "training": found["training"]}
    entry |= {"skipped": found.get("skipped"), "forms": {engine: of for engine, of in forms.items() if of} or None}
    entry["seconds"] = round(time.perf_counter() - begin)
    return {key: value for key, value in entry.items() if value is not None}


def failures(entry: Mapping[str, Any]) -> list[str]:
    """The results that do not pass, each with its place."""
    runs = {"training": entry["training"]}
    runs |= {f"{engine}, {form}": text for engine, of in entry.get("forms", {}).items() for form, text in of.items()}
    return [f"{place}: {text}" for place, text in runs.items() if text != PASSES and not text.startswith("not run")]


def commit() -> str:
    """The commit that is checked out; `+` if files of the compiler or runtime differ from it."""
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    head = git(["git", "rev-parse", "--short=10", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--", "compiler", "runtime", "specs"]).stdout.strip()
    return head + ("+" if changed else "")


def document() -> dict[str, Any]:
    """The content of docs/verified.json."""
    if not FILE.is_file():
        return {"systems": {}}
    return json.loads(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def wanted(only: Sequence[str], again: bool, known: Mapping[str, Any]) -> Iterator[str]:
    yield from only or (name for name in SYSTEMS if again or name not in known)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="SYSTEM", choices=list(SYSTEMS))
    parser.add_argument("--again", action="store_true")
    flags = parser.parse_args()
    for package in ("onnx", "torch"):
        importlib.import_module(package)  # so that no child has to
    held, ok = document(), True
    stamp = {"commit": commit(), "date": datetime.date.today().isoformat()}
    packages = {name: installed(name) for name in ("torch", *(ENGINES[engine].graph_engine for engine in CPU_ENGINES))}
    for name in list(wanted(flags.only, flags.again, held["systems"])):
        entry = {**stamp, **verified(name)}
        ok &= not failures(entry)
        print(f"{name}: {json.dumps(entry)}", flush=True)
        held["packages"] = packages
        held["systems"][name] = entry
        order = {key: held["systems"][key] for key in sorted(SYSTEMS) if key in held["systems"]}
        text = json.dumps({**held, "systems": order}, indent=1, ensure_ascii=False) + "\n"
        beside = FILE.with_suffix(".tmp")
        beside.write_text(text, encoding="utf-8")
        beside.replace(FILE)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
