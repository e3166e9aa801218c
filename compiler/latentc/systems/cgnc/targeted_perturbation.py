"""Training of a generator of perturbations against a frozen classifier.

Symbols: B batch, P patches of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.networks.resnet_classifier import classes_of
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B
from latentc.systems.cgnc.views import View, draws_of, seen

CLASSIFIER = "classifier"
"""Name of the network that is to see the wanted class."""


class TargetedPerturbation(Objective):
    """Cross-entropy of a drawn class, by a frozen `classifier` of perturbed images (CGNC, arXiv:2407.10179).

    The loss is a sum over the image and its `views`, each perturbed by itself. To fine-tune a trained generator for one
    class, give it alone in `targets`, and a `masked` share (section 3.5).
    """

    kind: Literal["targeted_perturbation"]
    targets: tuple[Annotated[int, Field(ge=0, lt=16_777_216)], ...] | None = Field(
        None,
        min_length=1,
        max_length=65_536,
        description="classes that are wanted in training, drawn with equal chances; null: all",
    )
    views: tuple[View, ...] = Field(
        ("turned", "cropped"),
        description="copies that the loss counts beside the image. turned: by a multiple of 90 degrees; cropped: a "
        "part at the size of the whole, mirrored or not, with other colours",
    )
    masked: float = Field(
        0.0, ge=0, lt=1, description="share of the patches without perturbation in training, of each view others"
    )
    patch: int = Field(32, gt=0, le=65_536, description="side of these patches, in pixels")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "targeted_perturbation", "views": ["cropped"]}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "perturb"), Need(CLASSIFIER, "classify")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        classes, shape = classes_of(spec), spec.data.shape or ()
        if "class" not in spec.conditions:
            message = "no condition `class` tells the generator which class is wanted"
            yield Problem((), message, "add `conditioning.class: {kind: class_text}`")
        for i, target in enumerate(self.targets or ()):
            if target >= classes:
                message = f"class {target} is out of range: the data has {classes} classes (0 to {classes - 1})"
                yield Problem(("targets", i), message, "choose others")
        if len(set(self.views)) < len(self.views):
            yield Problem(("views",), "a view is named twice", "name each once")
        if "turned" in self.views and len(shape) == 3 and shape[1] != shape[2]:
            message = f"images of {shape[1]} by {shape[2]} pixels have other sides when they are turned"
            yield Problem(("views",), message, "leave out `turned`, or use square images")
        if self.masked and len(shape) == 3 and not self._hidden(shape):
            message = f"a share of {self.masked:g} is not one of the patches of {self.patch} by {self.patch} pixels"
            yield Problem(("masked",), message, "use a larger share or smaller patches")
        classifier = spec.networks.get(CLASSIFIER)
        if classifier is not None and classifier.TIME:
            yield Problem((), f"`{CLASSIFIER}` takes a time, so it classifies noisy images", "use another")

    def _patches(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches; pixels that are left over belong to none."""
        return shape[1] // self.patch, shape[2] // self.patch

    def _hidden(self, shape: tuple[int, ...]) -> int:
        """Number of patches without perturbation."""
        rows, columns = self._patches(shape)
        return int(rows * columns * self.masked)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        (image,) = (port for port in network.methods["forward"].inputs if port.type.rank == 4)
        b = mb.function("loss.terms")
        x, drawn = b.input("x", image.type), b.input("target", i64(B))
        draws = [Draw("target", "integers", {"high": len(self.targets or ()) or classes_of(spec)})]
        target = drawn
        if self.targets is not None:
            target = b.take(b.constant(list(self.targets), "i64", out="targets"), drawn, axis=0, out="wanted")
        losses, reached = [], []
        for view in (None, *self.views):
            shown, of = x, view or "image"
            if view is not None:
                own = draws_of(view)
                types = {"integers": i64(B), "uniform": f32(B)}
                given = {one.name: b.input(one.name, types[one.distribution]) for one in own}
                draws += own
                shown = seen(b, view, x, given)
            operands = conditions.operands(b, {image.name: shown, "y": target})
            change = call(b, network, "forward", operands, out="perturbation")
            if self.masked:
                change, chance = self._masked(b, change, f"mask_of_{of}")
                draws.append(chance)
            perturbed = b.clamp(shown + change, low=-1.0, high=1.0, out=f"perturbed_{of}")
            logits = call(b, networks[CLASSIFIER], "forward", {}, state=perturbed, out=f"logits_of_{of}")
            losses.append(b.cross_entropy(logits, target, out=f"of_{of}"))
            reached.append(b.cast(b.equal(b.argmax(logits, axis=1), target), to="f32", out="reached"))
        b.output(summed(b, "loss", losses), *losses, reached[0])
        b.finish("The loss, its terms, and whether the classifier sees the wanted class, one value per image each.")
        names = ("loss", *(f"of_{view}" for view in ("image", *self.views)), "reached")
        return publish(mb, names, ("x",), tuple(draws), self.trained(spec))

    def _masked(self, b: Builder, change: Var, name: str) -> tuple[Var, Draw]:
        """The perturbation, 0 in the patches with the least of random numbers `name` f32[B, P], and their draw."""
        batch, _, height, width = (*change.shape,)
        shape = tuple(int(n) for n in change.shape[1:])  # type: ignore[arg-type]
        rows, columns = self._patches(shape)
        chance = b.input(name, f32(B, rows * columns))
        one = b.reshape(chance, shape=(batch, rows * columns, 1))
        other = b.reshape(chance, shape=(batch, 1, rows * columns))
        less = b.sum(b.cast(b.less(other, one), to="f32"), axes=(2,), keepdims=False, out="rank")
        kept = b.cast(b.greater(less, self._hidden(shape) - 0.5), to="f32", out="kept")
        kept = b.upsample_nearest(b.reshape(kept, shape=(batch, 1, rows, columns)), factor=self.patch, out="kept")
        for axis, (side, count) in enumerate(((height, rows), (width, columns)), 2):
            if rest := int(side) - count * self.patch:  # type: ignore[arg-type]
                kept = b.pad(kept, axis=axis, before=0, after=rest, value=1.0, out="kept")
        return b.mul(change, kept, out="perturbation"), Draw(name, "uniform")
