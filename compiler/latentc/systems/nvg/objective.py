"""Next-granularity prediction: NVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._alignment import feature_problems, mean_cosine
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B
from latentc.systems.nvg.granule_network import GranuleNetwork
from latentc.systems.nvg.granule_quantizer import GranuleQuantizer
from latentc.systems.nvg.granules import structure


class NextGranularity(Objective):
    """The losses of NVG's two networks at randomly drawn stages (Wang et al. 2025, arXiv:2508.12811, section 2.2).

    For `main`: the squared error of the last canvas, and the cross-entropy of the codes of a stage's clusters. For
    `structure`: the squared error of the velocity, which is noise - data, or 0 in channels known at its stage, at times
    whose logits are standard normal. With `features`, also 1 - the cosine between projections of `main` and a frozen
    encoder's features of the image, one data field per projection (REPA, Yu et al. 2024, arXiv:2410.06940).
    """

    kind: Literal["next_granularity"]
    canvas: float = Field(1.0, ge=0, description="weight of the squared error of the canvas")
    features: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="data fields of the features f32[L, C] that `main`'s projections are aligned with",
    )
    alignment: float = Field(0.5, ge=0, description="weight of the alignment with these features")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_granularity"}

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return ("main", "structure")

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (
            Need("main", "next_granules", ("features",) if self.features else ()),
            Need("structure", "denoise_structure"),
            Need("quantizer", "quantize_granules"),
        )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        sides = {name: net.side for name, net in spec.networks.items() if isinstance(net, GranuleNetwork)}
        quantizer = spec.networks.get("quantizer")
        if isinstance(quantizer, GranuleQuantizer):
            sides["quantizer"] = quantizer.codebook.side
        if len(set(sides.values())) > 1:
            words = ", ".join(f"`{name}` {side}" for name, side in sides.items())
            yield Problem((), f"the networks have different sides: {words}", "give all of them the same `side`")
        yield from feature_problems(spec, self.features)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, flow, quantizer = networks["main"], networks["structure"], networks["quantizer"]
        conditions = Conditions(spec, networks)
        canvas_type = main.methods["forward"].input("state").type
        positions, stages = int(canvas_type.shape[1]), int(quantizer.sizes["stages"])  # type: ignore[arg-type]
        b = mb.function("loss")
        tokens = b.input("tokens", quantizer.methods["canvases"].inputs[0].type)
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        stage, later = b.input("stage", i64(B)), b.input("structure_stage", i64(B))
        logit, noise = b.input("logit", f32(B)), b.input("noise", f32(B, positions, stages))
        labels = b.slice(tokens, axis=1, start=2 * positions - 1, stop=3 * positions - 1, out="labels")
        canvases = call(b, quantizer, "canvases", {}, token=tokens, out="canvases")
        last = b.reshape(
            b.slice(canvases, axis=1, start=stages + 1, stop=stages + 2), shape=(B, *canvases.shape[2:]), out="last"
        )
        canvas = _canvas(b, canvases, stage)
        shown = structure(b, labels, stages, stage)
        method = "train_forward" if self.features else "forward"
        names = " ".join(("made", "logits", *(f"seen_{name}" for name in self.features)))
        made, logits, *seen = call(b, main, method, cond, state=canvas, position=[shown, stage], out=names)
        error = b.mean((made - last) * (made - last), axes=(0, 1, 2), keepdims=False, out="canvas_error")
        rows = B * positions
        target = self._target(b, tokens, labels, stage, stages, positions)
        flat = b.reshape(logits, shape=(rows, logits.shape[2]))
        codes = b.mean(b.cross_entropy(flat, b.reshape(target, shape=(rows,))), axes=(0,), keepdims=False, out="codes")
        # The structure: channels from `later` on are noisy, earlier ones are known.
        later = b.add(later, 1, out="structure_stage")
        whole = structure(b, labels, stages, b.full(later, shape=(), value=stages, dtype="i64", out="whole")) - 1.0
        unknown = b.less(b.reshape(later, shape=(B, 1, 1)) - 2, b.arange(stages), out="unknown")
        t = b.sigmoid(logit, out="t")
        target_velocity = b.where(unknown, noise - whole, 0.0, out="target_velocity")
        noisy = b.add(whole, target_velocity * b.reshape(t, shape=(B, 1, 1)), out="noisy")
        velocity = call(
            b, flow, "forward", cond, state=[noisy, _canvas(b, canvases, later)], time=t, position=later, out="velocity"
        )
        difference = b.op("sub", velocity, target_velocity, out="difference")
        flow_error = b.mean(difference * difference, axes=(0, 1, 2), keepdims=False, out="structure_error")
        loss = b.add(b.add(error * self.canvas, codes), flow_error, out="loss")
        terms = [error, codes, flow_error]
        for name, ours in zip(self.features, seen, strict=True):
            cosine = mean_cosine(b, b.input(name, f32(B, *spec.data.fields[name].shape)), ours)
            terms.append(b.op("sub", 1.0, b.mean(cosine, axes=(0,), keepdims=False), out="misalignment"))
            loss = b.add(loss, terms[-1] * (self.alignment / len(self.features)), out="loss")
        b.output(loss, *terms)
        mb.entries["loss"] = b.finish("The loss: error of the canvas, cross-entropy of the codes, error of the flow.")
        draws = (
            *conditions.draws(),
            Draw("stage", "integers", {"high": stages + 1}),
            Draw("structure_stage", "integers", {"high": stages - 1}),
            Draw("logit", "normal"),
            Draw("noise", "normal"),
        )
        metrics = ("loss", "canvas", "codes", "structure", *(f"{name}_error" for name in self.features))
        batch = ("tokens", *conditions.fields, *self.features)
        return (Update("loss", self.trained(spec), batch, draws, metrics),)

    def _target(self, b: Builder, tokens: Var, labels: Var, stage: Var, stages: int, positions: int) -> Var:
        """i64[B, L]: the code of each position's cluster at `stage`."""
        power = b.take(b.constant([2**k for k in range(stages + 1)], out="powers"), stage, axis=0, out="power")
        power = b.reshape(power, shape=(B, 1))
        # Codes of stage k begin at 2^k - 1; a label of stage k is a last-stage label divided by 2^(K - k).
        of_stage = b.div(labels * power, positions, out="of_stage")
        return b.take_along(tokens, b.add(of_stage, power - 1, out="index"), axis=1, out="target")


def _canvas(b: Builder, canvases: Var, stage: Var) -> Var:
    """f32[B, L, Z]: the canvas before `stage` i64[B]."""
    rest = canvases.shape[2:]
    index = b.broadcast_to(b.reshape(stage, shape=(B, 1, 1, 1)), canvases, shape=(B, 1, *rest), out="index")
    return b.reshape(b.take_along(canvases, index, axis=1), shape=(B, *rest), out="canvas")
