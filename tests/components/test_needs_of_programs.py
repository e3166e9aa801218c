"""Programs around a sampler ask networks for optional methods, as objectives and samplers do."""

from __future__ import annotations

from typing import Literal

import pytest

from latentc.components.contract import Need
from latentc.components.sampler import Wrapper
from latentc.lower import lower_networks
from latentc.spec import Spec, load_spec


class Embedding(Wrapper):
    """A program that calls the method `embed` of the sampler's network."""

    kind: Literal["embedding"]

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "embed_conditions"),)


@pytest.mark.parametrize("name", ["digits_dit", "digits_edm"])
def test_networks_build_the_methods_that_a_program_asks_for(name: str) -> None:
    spec = load_spec(name)
    assert "embed" not in lower_networks(spec).networks["main"].methods
    asking = spec.model_copy(update={"programs": (Embedding(kind="embedding"),)})
    assert "embed" in lower_networks(asking).networks["main"].methods
