"""Training of HPDM: one patch per level of a pyramid of videos, each inside the one before.

Symbols: B batch, L levels, C channels, F frames, r side of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising import noised
from latentc.components.objectives.diffusion import DiffusionLoss
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.hpdm.patch_pyramid import PatchPyramid


class NestedPatches(DiffusionLoss):
    """The mean error of a denoiser on one patch per level (HPDM, Skorokhodov et al. 2024, arXiv:2406.07792).

    Level 0 is the whole video at the size of a patch. A patch of the next level has half its region, at a place that is
    drawn, and twice its resolution. All patches of a sample have one time, and noise of their own.
    """

    kind: Literal["nested_patches"]
    variance: Literal["fixed_small", "fixed_large"] = Field("fixed_small", description="variance of the reverse steps")
    NEEDS = "denoise_pyramid"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "nested_patches", "process": {"kind": "discrete", "steps": 100}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not isinstance(spec.networks.get("main"), PatchPyramid):
            yield Problem((), "`nested_patches` needs a network over a pyramid", "use `{kind: patch_pyramid}`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        assert spec.data.shape is not None
        b = mb.function("loss.terms")
        x = b.input("x", f32(B, *spec.data.shape))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        levels = int(network.methods["patches"].input("state").type.shape[1])  # type: ignore[arg-type]
        place = [b.input("place", f32(B, levels - 1, 2))] if levels > 1 else []
        patches, corners = cropped(b, x, levels, *place)
        at = noised(b, self.parameterization(), patches)
        given = {**cond, "corners": corners}
        out = call(b, network, "patches", given, state=at.scaled, time=at.network_time, out="prediction")
        terms = self.loss(at, out)
        b.output(*terms.values())
        b.finish("The mean error of the prediction over one patch per level, one value per sample.")
        further = (Draw("place", "uniform", {}, "where patches lie in those before"),) if levels > 1 else ()
        draws = (*conditions.drawn(), *conditions.draws(), *further, *at.draws)
        return publish(mb, tuple(terms), ("x", *conditions.fields), draws, self.trained(spec))


def cropped(b: Builder, x: Var, levels: int, place: Var | None = None) -> tuple[Var, Var]:
    """(f32[B, L, C, F, r, r], f32[B, L, 2]): a patch per level of x f32[B, C, F, H, H], and where each begins.

    A patch begins at the pixel of its level that place f32[B, L - 1, 2], from 0 to 1, selects in the patch before.
    """
    batch, channels, frames, size, _ = x.shape
    side = size // 2 ** (levels - 1)
    patches, corners = [], []
    begin = b.full(x, shape=(2,), value=0.0, dtype="f32", out="begin")
    for level in range(levels):
        small = b.reshape(x, shape=(batch, channels * frames, size, size))
        if level + 1 < levels:
            small = b.avg_pool(small, size=2 ** (levels - 1 - level), out="small")
        whole = side * 2**level
        if level and place is not None:
            drawn = b.reshape(b.slice(place, axis=1, start=level - 1, stop=level), shape=(batch, 2))
            step = b.minimum(b.floor(drawn * float(side + 1)), float(side), out="step")
            begin = b.add(begin * 2.0, step, out="begin")
            for axis in (0, 1):
                at = b.reshape(b.slice(begin, axis=1, start=axis, stop=axis + 1), shape=(batch, 1, 1), out="at")
                pixel = b.reshape(b.cast(b.arange(side), to="f32"), shape=(1, side, 1))
                cells = b.reshape(b.cast(b.arange(whole), to="f32"), shape=(1, 1, whole))
                chosen = b.cast(b.equal(at + pixel, cells), to="f32", out="chosen")
                one = b.reshape(chosen, shape=(batch, 1, side, whole))
                small = (
                    b.matmul(one, small, out="small")
                    if axis == 0
                    else b.matmul(small, b.transpose(one, perm=(0, 1, 3, 2)), out="small")
                )
        patches.append(b.reshape(small, shape=(batch, 1, channels, frames, side, side), out="patch"))
        corners.append(b.reshape(begin * (1 / whole), shape=(batch, 1, 2), out="corner"))
    if levels == 1:
        return patches[0], corners[0]
    return b.concat(*patches, axis=1, out="patches"), b.concat(*corners, axis=1, out="corners")
