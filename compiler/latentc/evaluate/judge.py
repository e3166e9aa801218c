"""Extractors with their references, ready to judge samples: `latentc evaluate`, and the gate of tune and quantisation.

Symbols: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from latentc.components.dataset import Data
from latentc.datasets.arrays import drawn_rows
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.extractors import extractor_from_text
from latentc.evaluate.extractors.contract import Extractor
from latentc.evaluate.extractors.principal import Principal
from latentc.evaluate.metrics import FIGURES, figures_by_class, figures_of, is_frechet
from latentc.evaluate.metrics.contract import Compared, Figure, Figures, Reference
from latentc.evaluate.metrics.memorisation import neighbours
from latentc.evaluate.pictures import Samples
from latentc.evaluate.reference import HELP, MOST, in_memory, real_source, reference_of, source_of
from latentc.evaluate.sources import SampleSource
from latentc.evaluate.store import Found, Tell, features_of
from latentc_runtime.manifest import Output

Array = np.ndarray
NEAREST = {"nearest", "nearest_ratio", "copies"}
SAMPLES, ELEMENTS = 2048, 1 << 27  # largest numbers of samples and values for computing principal components


@dataclass(frozen=True)
class Wanted:
    """The criteria of a judgement.

    `figures`: names of figures; none: every one. `features`: extractors as `extractor_from_text` reads them, the main
    one first; none: the one that suits the data. `classifier`: another extractor, for class accuracy. `reference` and
    `training`: texts as `real_source` reads them; None: the spec's data. `most`: real samples that are read.
    """

    figures: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    classifier: str | None = None
    reference: str | None = None
    training: str | None = None
    most: int = MOST
    device: str = "cpu"


@dataclass(frozen=True)
class Result:
    """Figures by name, the reasons why others are missing, the figures of each class, and what was compared."""

    figures: Figures
    missing: Mapping[str, str]
    by_class: Mapping[int, Figures]
    compared: Compared = field(repr=False)


@dataclass(frozen=True)
class Judge:
    """Extractors by name, the main one first, and the reference of each.

    `training`: features of the training set by the main extractor; `training_source`: where its samples can be read.
    `real`: where those of the reference can be read, if it holds samples.
    """

    wanted: tuple[str, ...]
    extractors: Mapping[str, Extractor]
    references: Mapping[str, Reference]
    classifier: str | None = None
    training: Array | None = None
    training_source: SampleSource | None = None
    held_out: bool = False  # the main reference is not the training set
    real: SampleSource | None = None

    @property
    def main(self) -> str:
        return next(iter(self.references))

    def figure(self, name: str) -> Figure:
        """The figure of that name as `result` names it; KeyError if there is none."""
        for other in self.references:
            for figure in FIGURES.values():
                if self._named(figure.name, other) == name:
                    return replace(figure, name=name, about=self._about(figure, other))
        raise KeyError(name)

    def _about(self, figure: Figure, extractor: str) -> str:
        own = self.extractors[extractor]
        if figure.name != "fd":
            return figure.about
        if own.frechet == "fid":
            return "Fréchet inception distance (Heusel et al. 2017)"
        return f"Fréchet distance in the features of {own.title}; not FID, not comparable with published ones"

    def named(self, name: str) -> str:
        """The name in results of what was asked for: `fd` is the Fréchet distance of the main features."""
        return self._named(name, self.main) if name == "fd" else name

    def features(self, source: SampleSource, tell: Tell) -> dict[str, Found]:
        """Features of a source's samples by every extractor, kept between runs."""
        return features_of(source, self.extractors, tell)

    def result(self, found: Mapping[str, Found], classes: bool = False) -> Result:
        """The figures of samples from their features. With `classes` also of each class."""
        figures: Figures = {}
        missing: dict[str, str] = {}
        by_class: dict[int, Figures] = {}
        for name in self.references:
            compared = self._compared(name, found)
            wanted = self._wanted(name)
            values, why = figures_of(compared, wanted)
            figures |= {self._named(key, name): value for key, value in values.items()}
            if name == self.main:
                main, missing = compared, {self._named(key, name): reason for key, reason in why.items()}
                parts = figures_by_class(compared, wanted) if classes else {}
                by_class = {label: {self._named(k, name): v for k, v in own.items()} for label, own in parts.items()}
        return Result(figures, missing, by_class, main)

    def __call__(self, samples: Samples, labels: Array | None) -> Figures:
        """The figures of samples in memory; NaN for those that cannot be computed."""
        found: dict[str, Found] = {name: (extract(samples), labels) for name, extract in self.extractors.items()}
        result = self.result(found)
        return {**result.figures, **dict.fromkeys(result.missing, math.nan)}

    def _compared(self, name: str, found: Mapping[str, Found]) -> Compared:
        features, labels = found[name]
        own = self.extractors[name]
        scores = features.logits if own.classifies else None
        logits = features.logits
        if self.classifier is not None:
            scores = found[self.classifier][0].logits
            logits = scores if logits is None else logits
        reference, near = self.references[name], None
        if len(reference.moments.mean) != features.features.shape[1]:
            mine, theirs = features.features.shape[1], len(reference.moments.mean)
            message = f"{reference.name} holds statistics of {theirs} features, but `{name}` computes {mine}"
            raise DiagnosticError.of(
                "E0722", message, help="name the extractor that they were computed with: `--features`"
            )
        reference = in_memory(reference, features)
        if name == self.main and self.training is not None and NEAREST & {*self.wanted}:
            near = neighbours(features.features, self.training, reference.features if self.held_out else None)
        return Compared(features.features, reference, logits, scores, labels, features.spatial, near)

    def _wanted(self, extractor: str) -> list[str]:
        """The figures to compute with an extractor, as `FIGURES` names them."""
        own = self.extractors[extractor].frechet
        return ["fd" if name == own else name for name in self.wanted if name == own or not is_frechet(name)]

    def _named(self, figure: str, extractor: str) -> str:
        if figure == "fd":
            return self.extractors[extractor].frechet
        return figure if extractor == self.main else f"{figure}_{extractor}"


def open_judge(wanted: Wanted, data: Data | None, output: Output | None, tell: Tell) -> Judge:
    """The judge of samples of `output` by a model of `data`.

    Reads the reference and extracts its features, or finds them in the cache. DiagnosticError E0401, E0706, E0714,
    E0720 to E0722.
    """
    given = _reference(wanted, data, output)
    if given.source is not None and output is not None and given.source.field["medium"] != output.medium:
        theirs, ours = given.source.field["medium"], output.medium
        mend = "compare images with images: u8[N, H, W, C] of 1 or 3 channels in an .npz, or image files"
        raise DiagnosticError.of("E0720", f"the samples are {ours}, but {given.source.name} is {theirs}", help=mend)
    usual = given.source.judged_by if given.source is not None else None
    usual = usual or (data.judged_by if data is not None else None)
    extractors = [_opened(text, given, wanted.device) for text in wanted.features or (usual or Principal.name,)]
    known = {extractor.name: extractor for extractor in extractors}
    references = {name: given.reference(extractor, tell) for name, extractor in known.items()}
    classifier = None
    if wanted.classifier is not None:
        extractor = _opened(wanted.classifier, given, wanted.device)
        if not extractor.classifies:
            mend = "name one whose logits are the data's classes, such as resnet50=FILE, or set `classifies: true`"
            raise DiagnosticError.of("E0721", f"`{extractor.name}` is not a classifier of the data", help=mend)
        known, classifier = {**known, extractor.name: extractor}, extractor.name
    figures = wanted.figures or tuple(FIGURES)
    distances = [extractor.frechet for extractor in (known[name] for name in references)]
    if others := [name for name in figures if is_frechet(name) and name not in distances]:
        given_ones = " and ".join(f"`{name}`" for name in distances)
        mend = "`fid` needs Inception's published weights, `--features inception=FILE`; `fd` takes any features"
        raise DiagnosticError.of("E0714", f"these features give {given_ones}, not `{others[0]}`", help=mend)
    judge = Judge(figures, known, references, classifier, real=given.source)
    training = _training(wanted, data, output) if NEAREST & {*figures} else None
    if training is None:
        return judge
    same = given.source is not None and given.source.identity == training.identity
    main = known[judge.main]
    features, _ = features_of(training, {main.name: main}, tell)[main.name]
    return replace(judge, training=features.features, training_source=training, held_out=not same)


@dataclass(frozen=True)
class _Given:
    """The reference as the user gave it: samples, statistics, or both. `text`: what named it."""

    text: str
    source: SampleSource | None
    statistics: Reference | None

    def reference(self, extractor: Extractor, tell: Tell) -> Reference:
        """In the space of an extractor; statistics of a file are those of the extractor with as many features."""
        if self.source is None:
            assert self.statistics is not None
            return self.statistics
        found = reference_of(self.source, extractor, tell)
        stored = self.statistics
        if stored is None or stored.moments.mean.shape != found.moments.mean.shape:
            return found
        return replace(found, moments=stored.moments, spatial=stored.spatial or found.spatial)


def _reference(wanted: Wanted, data: Data | None, output: Output | None) -> _Given:
    if wanted.reference is not None:
        return _Given(wanted.reference, *real_source(wanted.reference, output, wanted.most))
    if data is None:
        raise DiagnosticError.of(
            "E0722", "there is no reference to compare these samples with", help=f"`--reference`: {HELP}"
        )
    return _Given("data", source_of(data, output, "data", wanted.most, held_out=True), None)


def _opened(text: str, given: _Given, device: str) -> Extractor:
    found = extractor_from_text(text, device)
    if not isinstance(found, str):
        return found
    if given.source is None:
        mend = "name the extractor that the statistics were computed with: `--features inception=FILE`"
        raise DiagnosticError.of("E0722", f"{given.text} holds statistics, but no samples for `{text}`", help=mend)
    first = given.source.chunk(0, 1)[0].vectors()
    count = min(given.source.size, SAMPLES, max(64, ELEMENTS // first.size))
    rows = drawn_rows(None, given.source.size, count)
    if count < 2:
        raise DiagnosticError.of("E0722", f"{given.source.name}: a reference needs at least two samples", help=HELP)
    return Principal(given.source.at(rows.tolist()).vectors())


def _training(wanted: Wanted, data: Data | None, output: Output | None) -> SampleSource | None:
    """The training samples; None if they are not named and cannot be read."""
    if wanted.training is not None:
        found, _ = real_source(wanted.training, output, wanted.most, held_out=False)
        if found is None:
            raise DiagnosticError.of("E0722", f"{wanted.training} holds no samples", help=HELP)
        return found
    if data is None:
        return None
    try:
        return source_of(data, output, "training data", wanted.most, held_out=False)
    except DiagnosticError:
        return None
