"""A normalising flow of videos that continues them after given frames, and whose last flow may be wider.

Symbols: B batch, F frames, S tokens of a frame, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import asked
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry
from latentc.components.contract import Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.starflow_v.jacobi import AfterGiven, Jacobi
from latentc.systems.tarflow.flow_methods import METHODS, Inversion, Method, inverted, normalised
from latentc.systems.tarflow.frames import Layout, rotary_tables
from latentc.systems.tarflow.transformer_flow import Signature, TransformerFlow


class VideoFlow(TransformerFlow):
    """STARFlow-V's flow (Gu et al. 2025, arXiv:2511.20462): a `transformer_flow` over videos [C, F, H, W].

    `extend` and `guided_extend` are its `inverse` and `guided_inverse` of the tokens after the first frames, which they
    take as `given` f32[B, C, K, H, W].
    """

    kind: Literal["video_flow"]  # type: ignore[assignment]
    last_width: int | None = Field(
        None, gt=0, le=65_536, description="channels in the last flow, with the same head size; null: as `width`"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**TransformerFlow.EXAMPLE, "kind": "video_flow"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        size, last = self.block.parts()[0].head_size(self.width), self.last_width
        if last is not None and size and not self._sized and last % size:
            yield Problem(("last_width",), f"heads of {size} channels do not divide a width of {last}")

    def provides(self, spec: Spec) -> frozenset[Capability]:
        video = spec.data.shape is not None and len(spec.data.shape) == 4
        return super().provides(spec) | (frozenset({"extend_video"}) if video else frozenset())

    @property
    def _sized(self) -> bool:
        """True if the size of heads does not depend on the width of the tokens."""
        mixer = self.block.parts()[0]
        return mixer.head_size(self.width) == mixer.head_size(2 * self.width)

    def sizes_of(self, i: int, static: Mapping[str, Any]) -> dict[str, Any]:
        sizes = super().sizes_of(i, {name: size for name, size in static.items() if name != "given_frames"})
        if self.last_width is None or i < self.flows - 1:
            return sizes
        own = self.block.static(self.last_width)
        if not self._sized:
            own["heads"] = self.last_width // self.block.parts()[0].head_size(self.width)
        return {**sizes, "dim": self.last_width, **own}

    def static(self, spec: Spec) -> dict[str, Any]:
        frames = asked(spec, "main", "given_frames", 0)
        return {**super().static(spec), **({"given_frames": frames} if frames else {})}

    def signatures(self, spec: Spec, name: str) -> dict[str, Signature]:
        found = super().signatures(spec, name)
        if frames := asked(spec, name, "given_frames", 0):
            assert spec.data.shape is not None
            channels, count, height, width = spec.data.shape
            given = Port("given", f32(B, channels, frames, height, width), "state")
            for method in ("inverse", "guided_inverse"):
                (latent, *others), outputs = found[method]
                _, length, features = latent.type.shape
                after = Port("z", f32(B, int(length) // count * (count - frames), features), "noise")  # type: ignore[arg-type]
                found[method.replace("inverse", "extend")] = (given, after, *others), outputs
        return found

    def methods(self) -> Mapping[str, Method]:
        return {**METHODS, "extend": _extend_of(False), "guided_extend": _extend_of(True)}


def _extend_of(guided: bool) -> Method:
    @cache
    def made(config: TransformerFlow, entries: tuple[Entry, ...], layout: Layout, inversion: Inversion) -> BlockBody:
        @module_class("TransformerFlow", "guided_extend" if guided else "extend", given="B channels given_frames H W")
        def extend(b: Builder, given: Var, z: Var, *others: Var, **static: Any) -> Var:
            """The video that begins with the frames `given`; z is the latent of the frames after them.

            Only the flow over all frames depends on earlier frames; the others have mapped the given ones.
            """
            frames, features = static["given_frames"], static["channels"] * static["patch"] ** 2
            tables, own = rotary_tables(config, b, static, layout), {**static, "frames": frames}
            known, *_ = normalised(b, config, entries, layout, given, (), own, tables, last=config.flows - 1)
            count = known.shape[1]
            known = b.reshape(known, shape=(B, count * frames, features), out="known")
            x = b.concat(known, z, axis=1, out="x")
            x = b.reshape(x, shape=(B, count * static["frames"], features), out="x")
            tokens = int(count * frames)
            last = Jacobi(inversion.by, tokens) if isinstance(inversion, Jacobi) else AfterGiven(tokens)
            return inverted(b, config, entries, layout, (inversion, last), guided, x, others, static, tables)

        return extend

    return made
