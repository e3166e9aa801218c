"""The specs that ship, with the real components: they load, come back from text, and fail only in words."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict
from spec_mutations import depth, mutate
from tiny_systems import SYSTEMS

from latentc import components
from latentc.components import OneOf
from latentc.components.parts import Mixer, PlainMixer
from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.ir.builder import module_class
from latentc.lower import lower
from latentc.spec import json_schema, load_spec, resolved_yaml, spec_from_text, variant_names
from latentc.spec.sections import WarmEma
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import load_yaml

NAMES = list(shipped.shipped_specs())
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in shipped.shipped_specs().items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_loads_and_comes_back_from_its_text(
    name: str, some: Callable[[Sequence[str]], Sequence[str]]
) -> None:
    variants = variant_names(name)
    for variant in (None, *variants):
        spec = load_spec(name, variant)
        if variant is None or variant in some(variants):
            assert spec_from_text(resolved_yaml(spec)) == spec
        # The default warms up; a shipped spec says what its authors' average does.
        assert spec.objective is None or not isinstance(spec.train.ema, WarmEma)


@pytest.mark.parametrize(("variant", "latent", "attention"), [("128", 120, 64), ("256", 140, 128), ("512", 128, 64)])
def test_biggan_has_the_released_sizes(variant: str, latent: int, attention: int) -> None:
    """Those of the released generators; attention also as in the paper's tables 4 to 6."""
    generator: Any = load_spec("biggan", variant).networks["main"]
    assert (generator.latent_dim, generator.attention) == (latent, (attention,))


@given(st.sampled_from(NAMES), st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_spoilt_spec_gives_a_spec_or_a_diagnostic(name: str, chance: random.Random, count: int) -> None:
    data = load_yaml(TEXTS[name], name).data
    variant = chance.choice([None, *data.get("variants", {})])
    for _ in range(count):
        mutate(data, chance)
    if depth(data) > 40:
        return
    try:
        spec = spec_from_text(yaml_from_data(data), "t.yaml", variant)
    except DiagnosticError as error:
        assert str(error).startswith("error[E")
    else:
        assert spec_from_text(resolved_yaml(spec)) == spec


def test_infinite_values_of_name_maps_are_kept() -> None:
    text = TEXTS["rae_autoencoder"].replace("fill: {value: 0,", "fill: {value: -.inf,")
    spec = spec_from_text(text, "t.yaml")
    assert resolved_yaml(spec).count("value: -.inf") == 2 and spec_from_text(resolved_yaml(spec)) == spec


def test_every_tiny_system_loads() -> None:
    """Also those that no other test takes yet."""
    for system in SYSTEMS.values():
        load_spec(system.spec, system.variant, list(system.sizes))


def test_components_take_tuples_never_lists() -> None:
    """Specs are validated strictly, with tuples for YAML's lists: a list field could never be given."""
    folders = ["networks", "objectives", "samplers", "conditions"]
    for component in [component for folder in folders for component in OneOf(folder).choices().values()]:
        for name, field in component.model_fields.items():
            assert "list[" not in str(field.annotation), f"{component.__name__}.{name}"


def test_every_field_of_the_vocabulary_is_described() -> None:
    undescribed = [
        f"{name}.{key}"
        for name, definition in json_schema()["$defs"].items()
        for key, field in definition.get("properties", {}).items()
        if key != "kind" and "description" not in field
    ]
    assert undescribed == []


def test_a_component_without_one_of_its_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever writes a new one will have it."""

    class Unfinished(Mixer):
        kind: Literal["attention"]

        def static(self, dim: int) -> dict[str, int]:
            return {}

    find = components.find
    monkeypatch.setattr(
        components, "find", lambda folder, kind: Unfinished if "mixers" in folder else find(folder, kind)
    )
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_dit")
    fault = caught.value.diagnostics[0]
    assert fault.code == "E0209" and fault.message == (
        "`backbone.block.mixer`: the component Unfinished does not define apply"
    )


@pytest.mark.parametrize("name", ["digits_llamagen", "digits_tarflow"])
def test_a_causal_mixer_without_a_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Causal(PlainMixer):
        model_config = ConfigDict(extra="ignore")
        kind: Literal["attention"]

        @property
        def ordered(self) -> bool:
            return True

        def static(self, dim: int) -> dict[str, int]:
            return {"heads": 1}

        def body(self, init: str) -> Any:
            return module_class("Same")(lambda b, x, **sizes: x)

    find = components.find
    monkeypatch.setattr(components, "find", lambda folder, kind: Causal if "mixers" in folder else find(folder, kind))
    with pytest.raises(DiagnosticError) as caught:
        lower(load_spec(name))
    (fault,) = caught.value.diagnostics
    assert fault.message.endswith("but `attention` processes whole sequences")


def test_variants_of_a_base_are_not_those_of_a_spec_with_its_own(tmp_path: Path) -> None:
    """A spec without variants has its base's; own ones change further what the base's of the same name change."""
    own, plain = tmp_path / "own.yaml", tmp_path / "plain.yaml"
    own.write_text("latentc: 1\nextends: dit\nname: own\nvariants: {S/2: {backbone: {depth: 3}}, tiny: {}}\n")
    plain.write_text("latentc: 1\nextends: dit\nname: plain\n")
    with pytest.raises(DiagnosticError, match="unknown variant `B/2`"):
        load_spec(str(own), "B/2")
    main: Any = load_spec(str(own), "S/2").networks["main"]
    assert (main.depth, main.width) == (3, 384)
    assert set(variant_names(str(own))) == {"S/2", "tiny"}
    assert set(variant_names(str(plain))) == set(variant_names("dit"))
