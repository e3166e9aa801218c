"""Conditions that a network does not take, or that the spec no longer has: a diagnostic, or a spec that lowers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from latentc import api
from latentc.components.backbone import Backbone
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.resolve import resolve_file


def overrides(name: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(the kinds of the objective, of what leaves something out, and of that; the override) for a spec."""
    spec, raw = load_spec(name), resolve_file(name).document.data
    kind = getattr(spec.objective, "kind", "")
    for condition, part in spec.conditions.items():
        yield (kind, "spec", part.kind), f"conditioning.{condition}=null"
    for network, backbone in spec.networks.items():
        taken = list(backbone.takes(spec)) if isinstance(backbone, Backbone) else []
        place = "backbone" if network == "main" and "backbone" in raw else f"networks.{network}"
        for left in taken:
            rest = ", ".join(one for one in taken if one != left)
            yield (kind, backbone.kind, spec.conditions[left].kind), f"{place}.conditions=[{rest}]"
        if len(taken) > 1:
            yield (kind, backbone.kind), f"{place}.conditions=[]"


def test_what_is_left_out_is_refused_or_not_needed(request: pytest.FixtureRequest) -> None:
    """Once per combination of an objective, a network and a condition; `--exhaustive`: in every spec."""
    done: set[tuple[str, ...]] = set()
    for name in (name for family in api.specs().values() for name in family):
        for key, override in overrides(name):
            if key in done and not request.config.getoption("--exhaustive"):
                continue
            done.add(key)
            try:
                lower(load_spec(name, None, [override]))
            except DiagnosticError as error:
                assert {d.code for d in error.diagnostics}.isdisjoint({"E0901", "E0904"}), (name, override, error)
            except Exception as error:
                raise AssertionError(f"{name} --set {override}") from error
    assert len(done) > 100
