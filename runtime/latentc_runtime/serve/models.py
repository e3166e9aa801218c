"""The bundles of a server: opened, named, each with its scheduler, and described as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Manifest, ProgramEntry
from latentc_runtime.pipeline import Pipeline, load
from latentc_runtime.serve.answers import side, types_of
from latentc_runtime.serve.metrics import Metrics
from latentc_runtime.serve.options import Options
from latentc_runtime.serve.scheduler import Scheduler

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Model:
    """A bundle that is served under `name`; `place` is the folder as it was given, `created` when it was compiled.

    `created` is in seconds since 1970.
    """

    name: str
    place: str
    created: int
    pipeline: Pipeline
    scheduler: Scheduler

    @property
    def manifest(self) -> Manifest:
        return self.pipeline.manifest

    @property
    def ready(self) -> bool:
        return self.scheduler.is_ready()

    def entry(self) -> dict[str, Any]:
        """The model in the form of OpenAI's interface."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "latentc"}

    def description(self, options: Options) -> dict[str, Any]:
        """The description of the model that clients need for requests."""
        manifest = self.manifest
        return {
            **self.entry(),
            "name": self.name,
            # A path reveals the layout of the machine, which should not be visible on the network.
            "bundle": self.place if options.loopback else Path(self.place).name,
            "state": self.scheduler.state,
            "engine": manifest.engine,
            "precision": manifest.precision,
            "device": self.pipeline.device,
            "conditions": [
                {**asdict(c), "required": c.required, "takes": manifest.takes(c)} for c in manifest.conditions
            ],
            "settings": [asdict(setting) for setting in manifest.settings],
            "programs": [_program(manifest, entry) for entry in manifest.programs],
            "max_samples": options.max_samples,
        }


def _program(manifest: Manifest, entry: ProgramEntry) -> dict[str, Any]:
    output = entry.shown
    return {
        "name": entry.name,
        "steps": entry.steps,
        "solver": entry.solver,
        "form": entry.form,
        "conditions": [c.name for c in manifest.conditions_of(entry)],
        "settings": [s.name for s in manifest.settings_of(entry)],
        "outputs": [o.name for o in entry.outputs],
        "medium": output.medium,
        "side": side(output),
        "types": types_of(output),
        "previews": entry.form == "host" and output.medium in ("image", "video"),
    }


def open_models(bundles: Sequence[str], options: Options, metrics: Metrics) -> dict[str, Model]:
    """Open every bundle, given as FOLDER or NAME=FOLDER, by name. Raises BundleError (E0601 to E0613, E0619)."""
    models: dict[str, Model] = {}
    for given in bundles:
        alias, equals, folder = given.partition("=")
        if not equals or Path(given).exists():
            alias, folder = "", given
        pipeline = load(folder, options.device, threads=options.threads)
        name = alias or pipeline.manifest.name
        if not _NAME.fullmatch(name):
            message = f"`{name}` cannot be part of an address, which allows letters, digits, `.`, `_` and `-`"
            raise BundleError("E0619", message, f"name the bundle here: NAME={folder}")
        if name in models:
            message = f"two bundles are named `{name}`: {models[name].place} and {folder}"
            raise BundleError("E0619", message, f"name one of them here: {name}-2={folder}")
        scheduler = Scheduler(name, pipeline, options, metrics.observer(name))
        created = int((Path(folder) / "manifest.json").stat().st_mtime)
        models[name] = Model(name, folder, created, pipeline, scheduler)
        metrics.add_model(name, scheduler.waiting_samples, scheduler.is_ready)
    return models
