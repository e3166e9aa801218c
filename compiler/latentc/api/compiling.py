"""From a spec and weights to a bundle, with the calibration of quantised ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentc.api._common import Source, lowered_spec, with_first_stage
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import runtime_errors

if TYPE_CHECKING:
    from latentc.quantize.calibration import Calibration
    from latentc.spec import Spec
    from latentc.weights.in_memory import Weights
    from latentc_runtime.manifest import Manifest


def compile(
    source: Source,
    weights: Weights | None,
    bundle: Path | str,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    form: Literal["auto", "unroll", "loop", "host"] | None = None,
    steps: Sequence[int] = (),
    max_batch: int | None = None,
    by_reference: bool = False,
    progress: Callable[[str], None] | None = None,
    rebuild: bool = False,
    calibration: Path | str | None = None,
    force: bool = False,
    warn: Callable[[str], None] | None = None,
    run: bool = True,
    check: bool = True,
) -> Manifest:
    """Compile a spec and its weights into the folder `bundle`, which is never visible half-written.

    An up-to-date bundle is left untouched unless `rebuild`; then `progress` is not called.

    `weights`: files, or arrays by name; None for the spec's `checkpoints`. `steps`: the step counts it can sample in,
    the default first; none for the spec's. `form` and `max_batch` override the spec's `target`. `by_reference` leaves
    the weights where they are. `progress` is called with each stage. `run`: sample once with the finished bundle, which
    opens it with all its weights, and refuse one that fails. `check`: then also compare one evaluation with the
    oracle's. With `optimize.quantize`: `calibration` is a file of `calibrate`, else one is made; a quantised engine
    that is too slow or too far off is refused, unless `force`. `warn` is called with every deviation from the request.
    Raises DiagnosticError: E0401 to E0413 (weights), E0501 to E0503, E0512, E0513, E0703, E0708, E0801 to E0806.
    """
    from latentc.api.known_names import with_known_names
    from latentc.api.unchanged import compile_key, unchanged, weights_as_they_are
    from latentc.components.fields import FIRST_STAGE
    from latentc.spec import load_spec, resolved_yaml
    from latentc.spec.named import checkpoint_files
    from latentc.weights.files import named_files
    from latentc.weights.hub import is_official, is_remote, local
    from latentc_runtime.hashes import hash_file

    # The passes read the largest batch from the spec, so it is set there.
    overrides = [*overrides, *([f"target.max_batch={max_batch}"] if max_batch else [])]
    overrides, weights = with_first_stage(source, variant, overrides, weights)
    sampler = load_spec(source, variant, overrides).sampler if steps else None
    if sampler is not None and "steps" not in type(sampler).model_fields:
        mend = "leave the steps out: generators run once, and token samplers draw one token at a time"
        raise DiagnosticError.of("E0708", "the sampler of this spec has no number of steps", help=mend)
    # Each count is checked as if the spec set it; the bundle's spec has the first, which is the default.
    counts = [[*overrides, f"sampler.steps={count}"] for count in steps] or [overrides]
    spec = load_spec(source, variant, counts[0])
    in_memory = isinstance(weights, Mapping)
    if in_memory and by_reference:
        mend = "leave `by_reference` out, or give their file"
        raise DiagnosticError.of("E0415", "a bundle can only refer to weights in files, not in memory", help=mend)
    files = {} if isinstance(weights, Mapping) else named_files(weights or (), list(spec.networks), ())
    if not in_memory and "" not in files:
        files = {**checkpoint_files(spec), **files}
    if spec.data.first_stage is not None and spec.data.first_stage.weights is not None:
        files[FIRST_STAGE] = Path(spec.data.first_stage.weights)
    shown = ", ".join(str(path) if is_remote(path) else path.name for path in files.values())
    if any(map(is_official, files.values())):
        from latentc.checkpoint.official import local_files

        files = local_files(spec, files)
    networks = [local(path) for name, path in files.items() if name != FIRST_STAGE]
    spec = with_known_names(spec, networks, warn or (lambda text: None))
    text = resolved_yaml(spec.model_copy(update={"checkpoints": {}}))  # the bundle holds the weights
    named = {f"tokenizer of {n}": Path(f.tokenizer) for n, f in spec.data.fields.items() if f.tokenizer is not None}
    texts = {name: file for name, file in named.items() if file.is_file()}
    same_weights = weights_as_they_are(files, texts)
    given = {"file": shown or None, "names": names, "key": key}
    options = {**given, "form": form, "steps": list(steps), "by_reference": by_reference, "force": force, "run": run}
    options["check"] = check
    if calibration is not None:
        # Whoever reads it reports a missing one.
        options["calibration"] = hash_file(calibration).sha256 if Path(calibration).is_file() else ""
    reference = spec.optimize.quantize.budget.weights if spec.optimize.quantize is not None else None
    if reference is not None:
        options["reference"] = hash_file(reference).sha256 if Path(reference).is_file() else ""
    made_from = "" if in_memory else compile_key(spec, text, files, options, texts)
    if not rebuild and (manifest := unchanged(Path(bundle), made_from)) is not None:
        return manifest

    from latentc.checkpoint import network_weights
    from latentc.export.bundle import bundle_from_lowered
    from latentc.lower import lower
    from latentc.measure.first_run import check_runs
    from latentc.pipeline import optimised
    from latentc.verify.compiled import check_computes

    if calibration is not None:
        _check_quantised(spec)
    for changed in counts[1:]:
        lowered_spec(source, variant, changed)
    lowered = lower(spec, steps)
    if not lowered.programs:
        mend = "add a `sampler:` section (docs/samplers.md)"
        raise DiagnosticError.of("E0708", f"the spec `{spec.name}` has no sampler to compile", help=mend)
    tell, say = progress or (lambda stage: None), warn or (lambda text: None)
    unused: list[str] = []
    tensors = network_weights(spec, lowered, weights, names, key, lowered.sampled, unused=unused)
    for note in unused:
        say(note)
    if spec.data.first_stage is not None and spec.data.first_stage.weights is None:
        codes = "tokens" if spec.data.tokens is not None else "latents"
        say(
            f"samples remain {codes}: give `--weights first_stage=FILE` to decode them with "
            f"{spec.data.first_stage.spec}"
        )
    how: dict[str, Any] = {
        "spec_text": text,
        "form": form or spec.target.form,
        "by_reference": by_reference,
        "max_batch": spec.target.max_batch,
        "opset": spec.target.opset,
        "provenance": {name: value for name, value in given.items() if value is not None},
        "made_from": made_from,
        "check": same_weights,
    }
    if spec.optimize.quantize is not None:
        from latentc.quantize.compile import quantised_bundle

        file = None if calibration is None else Path(calibration)
        with runtime_errors():
            return quantised_bundle(
                lowered,
                spec,
                tensors,
                Path(bundle),
                calibration=file,
                scales=_scales(files),
                force=force,
                tell=tell,
                warn=say,
                **how,
            )
    final = optimised(lowered, spec)
    if spec.target.precision == "fp16":
        from latentc.quantize.model import Model
        from latentc.quantize.precision import check_range
        from latentc.weights import by_path

        check_range(Model(lowered, spec, by_path(tensors)), final, tell, say)

    def finish(folder: Path, manifest: Manifest) -> Manifest:
        def in_form(other: str, path: Path) -> Manifest:
            changed = {"form": other, "by_reference": not manifest.plans, "made_from": ""}
            return bundle_from_lowered(final, spec, tensors, path, **{**how, **changed})

        if run:
            runs = check_runs(folder, manifest, final, in_form, tell, say)
            if runs and check:
                check_computes(folder, manifest, spec, lowered, final, tell, say)
        return manifest

    return bundle_from_lowered(final, spec, tensors, bundle, progress=progress, finish=finish, **how)


def _scales(files: Mapping[str, Any]) -> dict[str, Any]:
    """The scales in the file of `main`, if it was trained for a quantised engine."""
    from latentc.quantize.training import scales_in
    from latentc.weights.hub import is_remote

    file = files.get("main", files.get(""))
    return {} if file is None or is_remote(file) else scales_in(file)


def calibrate(
    source: Source,
    weights: Weights | None,
    output: Path | str,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Calibration:
    """Watch the unquantised networks along their sampler's trajectories, as `optimize.quantize.calibration` says.

    `output` is the .npz file to write, for `compile`. Raises DiagnosticError: E0401 to E0413, E0703, E0708, E0801.
    """
    from latentc.checkpoint import network_weights
    from latentc.quantize.calibrate import calibrate as watch
    from latentc.quantize.calibration import write_calibration
    from latentc.quantize.model import Model
    from latentc.weights import by_path

    overrides, weights = with_first_stage(source, variant, overrides, weights)
    spec, lowered = lowered_spec(source, variant, overrides)
    _check_quantised(spec)
    if not lowered.programs:
        mend = "add a `sampler:` section (docs/samplers.md)"
        raise DiagnosticError.of("E0708", f"the spec `{spec.name}` has no sampler to watch", help=mend)
    tensors = by_path(network_weights(spec, lowered, weights, names, key, lowered.sampled))
    with runtime_errors():
        found = watch(Model(lowered, spec, tensors), progress or (lambda done, total, stage: None))
    write_calibration(output, found)
    return found


def _check_quantised(spec: Spec) -> None:
    if spec.optimize.quantize is None:
        mend = "add `optimize: {quantize: {scheme: int8}}`, or `--set optimize.quantize.scheme=int8`"
        raise DiagnosticError.of("E0708", f"the spec `{spec.name}` is not quantised", help=mend)


def fused(manifest: Manifest) -> str:
    """How many attentions, norms and activations of a bundle's default sampler became one operator each, in a line."""
    from latentc.export.fusion import fusion_text

    plans = {plan.capability: 0 for plan in manifest.plans}
    for plan in manifest.plans:
        plans[plan.capability] += plan.fused_attentions
    return fusion_text(manifest.fusion, plans) if manifest.fusion is not None else "its operators are unknown"
