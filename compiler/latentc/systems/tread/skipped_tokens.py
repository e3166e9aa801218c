"""Guidance between predictions in which different shares of the tokens skip blocks: TREAD's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.capabilities import routed_method
from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import Contrast, ContrastTerm, Noise, Skips, left_out_problems
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import wrappers
from latentc.ir.builder import ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.components.samplers.guided import Predictions


class SkippedTokens(ContrastTerm):
    """Adds (scale - 1) (p - q), where in q a random share of the tokens skips the blocks of the network's `routes`.

    Guidance of TREAD (Krause et al. 2025, arXiv:2501.04765): it costs fewer FLOPs than a second full evaluation and
    needs no condition. Shares may differ from training. With `better_share`, all other predictions skip tokens too, and
    guidance is applied to p instead of a prediction with all tokens.
    """

    OF_SCORE: ClassVar[bool] = True

    kind: Literal["skipped_tokens"]
    share: float = Field(gt=0, lt=1, description="fraction of tokens that skip blocks in q (the authors' gamma2)")
    better_share: float = Field(
        0.0, ge=0, lt=1, description="fraction of tokens that skip them in p and all other predictions (gamma1)"
    )
    network: str = Field("main", description="one of `networks`, with `routes`, which predicts q")
    without: tuple[str, ...] = Field((), description="conditions left out of q only")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "skipped_tokens", "scale": 1.5, "share": 0.7}

    def needs(self) -> tuple[Need, ...]:
        names = dict.fromkeys(("main", self.network) if self.better_share else (self.network,))
        return tuple(Need(name, "skip_tokens", place=("network",)) for name in names)

    def shares(self, network: str) -> tuple[float, ...]:
        better = (self.better_share,) if self.better_share and network == "main" else ()
        return (*better, *((self.share,) if network == self.network else ()))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from left_out_problems(self.without, "without", spec)
        if spec.optimize.stitch is not None or any(wrapper.around for wrapper in wrappers(spec)):
            message = (
                "this guidance skips blocks of `main`, but in some steps another network or only "
                "part of `main` is evaluated"
            )
            yield Problem((), message, "leave out `optimize.stitch` and `programs`, or this guidance")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        absent, other = frozenset(self.absent), None if self.network == "main" else networks[self.network]
        without, worse = absent.union(self.without), self._skips(networks[self.network], self.share, "worse")
        better = self._skips(networks["main"], self.better_share, "better") if self.better_share else None

        def pair(e: Predictions) -> tuple[Var, Var]:
            return e(absent), e(without, network=other, skips=worse)

        noise = (*(() if better is None else better.noise), *worse.noise)
        return Contrast(pair, self.channels, noise, usual=None if better is None else (absent, better))

    def _skips(self, network: Network, share: float, name: str) -> Skips:
        method = network.methods[routed_method(share)]
        ports = method.inputs_of("noise")
        return Skips(routed_method(share), tuple(Noise(f"{name}_{p.name}", p.type, "uniform") for p in ports))
