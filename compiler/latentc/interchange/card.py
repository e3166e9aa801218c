"""The model card of a repository on the Hugging Face Hub: its README.md, made from the spec and an evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentc import __version__
from latentc.diagnostics import DiagnosticError
from latentc.files.templates import rendered
from latentc.spec import Spec
from latentc.weights.hub import asking

_LARGEST = 1 << 24  # bytes of metrics.json
_SHOWN = 10  # names of classes


@dataclass(frozen=True)
class Card:
    """The contents of a card beside the spec.

    `what`: the kind of repository. `commands`: how to run it. `facts`: about the model. `report`: metrics.json of an
    evaluation, as data. `picture`: a file of the repository, and what it shows.
    """

    what: str
    spec_file: str
    commands: Sequence[str]
    facts: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    picture: str | None = None
    picture_about: str = ""
    licence: str | None = None


def report_of(folder: Path) -> dict[str, Any]:
    """metrics.json of a folder that `latentc evaluate -o` wrote. DiagnosticError E0401, E0403."""
    file = folder / "metrics.json" if folder.is_dir() else folder
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= _LARGEST else None
        best_run(found)
        return dict(found)
    except OSError:
        mend = "write it with `latentc evaluate BUNDLE -o DIR`, then name DIR"
        raise DiagnosticError.of("E0401", f"no such report: {file}", help=mend) from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        mend = "name the folder that `latentc evaluate -o` wrote"
        raise DiagnosticError.of("E0403", f"{file} is not the report of an evaluation", help=mend) from None


def best_run(report: Any) -> dict[str, Any]:
    """Of several guidance scales, the run with the least Fréchet distance; its figures are in the report's list."""
    runs = [run for run in report["runs"] if set(run["figures"]) <= set(report["figures"])]
    name = next((name for name in report["figures"] if name.startswith(("fid", "fd"))), None)
    return dict(min(runs, key=lambda run: run["figures"].get(name) or math.inf) if name else runs[0])


def card_of(spec: Spec, card: Card) -> str:
    """The text of README.md, with the front matter that the Hub reads. DiagnosticError E0706."""
    figures = [] if card.report is None else _figures(card.report)
    facts = {
        "name": spec.name,
        "source": spec.source or "",
        "head": _head(spec, card, figures),
        "version": __version__,
        "data": _data(spec),
        "figures": figures,
        "measured": {} if card.report is None else _measured(card.report),
        **{name: getattr(card, name) for name in Card.__dataclass_fields__},
    }
    return rendered("hub/README.md", facts)


def _head(spec: Spec, card: Card, figures: Sequence[dict[str, Any]]) -> str:
    """The front matter, as the Hub's library writes it."""
    with asking("writing a model card", "E0426") as hub:
        task = "unconditional-image-generation" if spec.data.modelled.medium == "image" else None
        dataset = {} if card.report is None else _measured(card.report)
        results = [
            hub.EvalResult(
                task_type=task or "other",
                dataset_type=spec.data.kind,
                dataset_name=dataset.get("reference", spec.data.kind),
                metric_type=row["name"],
                metric_name=f"{row['name']} ({dataset.get('features', 'no features')})",
                metric_value=row["number"],
            )
            for row in figures
        ]
        shown = {"model_name": spec.name, "eval_results": results} if results else {}
        tags = ["latentc", spec.data.modelled.medium]
        known = {"library_name": "latentc", "license": card.licence, "pipeline_tag": task, "tags": tags}
        data = hub.ModelCardData(**known, **shown)
        return str(data.to_yaml())


def _figures(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each finite figure of the best run."""
    arrows, own = {"lower": " ↓", "higher": " ↑"}, best_run(report)["figures"]
    return [
        {
            "name": name,
            "arrow": arrows.get(about.get("better"), ""),
            "number": own[name],
            "value": f"{own[name]:.4g}",
            "about": str(about.get("about", "")),
        }
        for name, about in report["figures"].items()
        if isinstance(own.get(name), int | float)
    ]


def _measured(report: dict[str, Any]) -> dict[str, str]:
    """How the figures were measured: samples, reference, extractors and their identities."""
    own = best_run(report)
    found = {k: str(v) for k, v in report.items() if isinstance(v, str) and k != "name"}
    if own.get("guidance") is not None:
        found["guidance"] = f"{own['guidance']:g}"
    found |= {f"extractor {name}": str(value) for name, value in dict(report.get("extractors", {})).items()}
    return found


def _data(spec: Spec) -> dict[str, str]:
    """The data that the model was trained on, as the spec says; of its path the name alone."""
    data = spec.data
    found = {"kind": data.kind}
    if path := getattr(data, "path", None):
        found["name"] = Path(str(path)).name
    found["sample"] = f"{data.modelled.medium}, {' × '.join(map(str, data.modelled.shape)) or 'a number'}"
    if data.classes:
        names = data.class_names or ()
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        found["classes"] = f"{data.classes}" + (f": {', '.join(names[:_SHOWN])}{more}" if names else "")
    if data.first_stage is not None:
        found["first stage"] = Path(data.first_stage.spec).name
    return found
