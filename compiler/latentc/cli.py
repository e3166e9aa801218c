"""The command line: one thin function a verb. What a verb does stands in `latentc.api`; here it is printed."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from latentc import __version__, api
from latentc.diagnostics import Diagnostic, DiagnosticError, render
from latentc.faults import INTERRUPTED, TERMINATED, data_from_diagnostics, exit_status
from latentc.ranges import numbers_from_text

app = typer.Typer(
    name="latentc",
    help="Compile a YAML spec of a generative model into a PyTorch training project and an inference engine.",
    epilog="`latentc explain CODE` tells more of an error. Progress and errors go to stderr.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

deploy = typer.Typer(help="Write a bundle as what a server serves.", rich_markup_mode=None)
app.add_typer(deploy, name="deploy")

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, the name of a shipped spec, or - for stdin.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `latentc compile` wrote.")]
Variant = Annotated[str | None, typer.Option("--variant", "-v", metavar="NAME", help="A variant of the spec.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change one value; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Weights = Annotated[
    list[str],
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="A .safetensors, .pt or .npz file; NETWORK=FILE once for each of several.",
    ),
]
Names = Annotated[str | None, typer.Option("--names", metavar="MAP", help="The spec's name map the file follows.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Which state dict of a checkpoint: ema.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Sample i has seed N + i.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, tensorrt or auto.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that latentc did not write.")]


# ---- specs


@app.command()
def specs(as_json: Json = False) -> None:
    """List the specs that ship with latentc, and their variants."""
    found = api.specs()
    width = max(map(len, found))
    _print(found if as_json else "\n".join(f"{name:{width}}  {' '.join(v)}".rstrip() for name, v in found.items()))


@app.command()
def check(
    spec: Spec,
    variant: Variant = None,
    overrides: Sets = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the spec with every default.")] = False,
    as_json: Json = False,
) -> None:
    """Check a spec: every mistake with its file, line and column."""
    if resolved:
        _print(api.resolved(spec, variant, overrides or ()), end="")
        return
    try:
        name = api.check(spec, variant, overrides or ()).name
    except DiagnosticError as error:
        if not as_json:
            raise
        _print({"ok": False, "diagnostics": data_from_diagnostics(error.diagnostics)})
        raise typer.Exit(1) from None
    _print({"ok": True, "name": name, "variant": variant} if as_json else f"{name}: the spec is sound")


@app.command()
def show(
    spec: Spec,
    variant: Variant = None,
    overrides: Sets = None,
    ir: Annotated[bool, typer.Option("--ir", help="Print the IR.")] = False,
    after: Annotated[str | None, typer.Option("--after", metavar="PASS", help="The IR after a pass.")] = None,
    full: Annotated[bool, typer.Option("--full", help="IR that parses back: every constant whole.")] = False,
    why: Annotated[
        str | None, typer.Option("--why", metavar="RULE", help="What a fusion rule found; `all` for every rule.")
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the network.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a spec comes to: parameters, flops, memory; its IR; a picture."""
    if why is not None:
        _print(api.why(spec, why, variant, overrides or ()), end="")
        return
    if ir or full or after is not None:
        _print(api.ir(spec, variant, overrides or (), after, full), end="")
        return
    found = api.show(spec, variant, overrides or (), svg)
    reads = api.hoisting(spec, variant, overrides or ())
    texts = [f"{entry}: {report.text()}" for entry, report in found.items()]
    texts += [f"{entry}, {report.text()}" for entry, report in reads.items()]
    data = {entry: report.data() for entry, report in found.items()}
    for entry, report in reads.items():
        data[entry]["weights_read"] = report.data()
    _print(data if as_json else "\n".join(texts), end="")


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs, for completion in editors."""
    _print(api.schema())


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model and of its file.")] = "my-model",
    kind: Annotated[
        Literal["diffusion", "flow", "tokens"], typer.Option("--kind", help="What to begin with.")
    ] = "diffusion",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.yaml.")] = None,
) -> None:
    """Write a first spec, commented, that trains on handwritten digits."""
    path = api.init(name, kind, output)
    _print(f"{path}: edit it, then `latentc check {path}` and `latentc train {path}`")


@app.command()
def explain(code: Annotated[str, typer.Argument(metavar="CODE", help="As in error[E0204].")]) -> None:
    """Explain the code of an error: what happened, an example, how to mend it."""
    _print(api.explain(code), end="")


# ---- training


@app.command()
def emit(
    spec: Spec,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The project's folder.")],
    variant: Variant = None,
    overrides: Sets = None,
    force: Force = False,
) -> None:
    """Write the PyTorch training project of a spec."""
    files = api.emit(spec, output, variant, overrides or (), force)
    _print(f"{output}: {' '.join(sorted(file.name for file in files if not file.name.startswith('.')))}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SPEC|DIR", help="A spec, or a folder that `emit` wrote.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where to emit.")] = None,
    variant: Variant = None,
    overrides: Sets = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes of torchrun.")] = 1,
) -> None:
    """Train: emits the project if need be and runs its train.py. Further flags (--steps 10) go to train.py."""
    folder = api.train(source, output, context.args, variant, overrides or (), processes)
    _print(f"trained in {folder}")


# ---- weights and networks


@app.command()
def forward(
    spec: Spec,
    weights: Weights,
    inputs: Annotated[Path, typer.Option("--inputs", "-i", metavar="FILE", help="An .npz of the network's inputs.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write, array `out`.")],
    backend: Annotated[
        Literal["oracle", "torch", "onnx", "openvino"], typer.Option("--backend", help="What runs it.")
    ] = "oracle",
    variant: Variant = None,
    overrides: Sets = None,
    names: Names = None,
    key: Key = None,
) -> None:
    """Run the network once."""
    with _bar("running"):
        api.forward_file(spec, weights, inputs, output, backend, variant, overrides or (), names, key)


@app.command()
def weights(
    spec: Spec,
    source: Weights,
    to: Annotated[Path, typer.Option("--to", "-o", metavar="FILE", help="The .safetensors file to write.")],
    names: Names = None,
    to_names: Annotated[str | None, typer.Option("--to-names", metavar="MAP", help="The name map to write by.")] = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
) -> None:
    """Write a checkpoint under other names: import with --names, export with --to-names."""
    with _bar("writing"):
        count = api.convert_weights(spec, source, to, names, to_names, key, variant, overrides or ())
    _print(f"{to}: {count} tensors")


# ---- bundles


@app.command()
def compile(
    spec: Spec,
    weights: Weights,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The folder to write.")],
    names: Names = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
    form: Annotated[
        Literal["auto", "unroll", "loop", "host"] | None, typer.Option("--form", help="Where the loop is.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="N,N", help="Step counts it holds, default first.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", min=1, help="Largest batch of one engine call.")
    ] = None,
    by_reference: Annotated[bool, typer.Option("--by-reference", help="Leave the weights where they are.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Also what is up to date.")] = False,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="FILE", help="What `latentc calibrate` wrote.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a quantised engine that is not worth it.")] = False,
    as_json: Json = False,
) -> None:
    """Compile a spec and its weights into a bundle: an engine that holds the whole sampler."""
    stages: list[str] = []
    warnings: list[str] = []
    with _bar("compiling") as bar:

        def progress(stage: str) -> None:
            stages.append(stage)
            bar.set_description(stage, refresh=False)

        manifest = api.compile(
            spec,
            weights,
            output,
            variant,
            overrides or (),
            names,
            key,
            form,
            numbers_from_text(steps or ""),
            max_batch,
            by_reference,
            progress,
            rebuild,
            calibration,
            force,
            warnings.append,
        )
    sys.stderr.write("".join(f"warning: {text}\n" for text in warnings))
    state = "" if stages else "up to date: "
    made = [{"steps": s.steps, "solver": s.solver, "form": s.form, "why": s.why} for s in manifest.samplers]
    lines = [f"{output}: {state}{m['solver']}, {m['steps']} steps, form {m['form']} ({m['why']})" for m in made]
    found: dict[str, Any] = {"bundle": str(output), "rebuilt": bool(stages), "samplers": made, "warnings": warnings}
    if (fusion := manifest.fusion) is not None:
        lines.append(f"{output}: {api.fused(manifest)}")
        found["fusion"] = dataclasses.asdict(fusion)
    if (quantised := manifest.quantization) is not None:
        lines.append(f"{output}: {_quantised(quantised)}")
        found["quantization"] = dataclasses.asdict(quantised)
    _print(found if as_json else "\n".join(lines))


def _quantised(made: Any) -> str:
    """The figures of a quantised bundle in a line."""
    quality = f"PSNR {made.psnr:.1f} dB" if made.psnr is not None else f"perplexity {made.perplexity or 0.0:+.2%}"
    speed = "speed not measured" if made.speedup is None else f"{made.speedup:.2f} × as fast at batch {made.batch}"
    return f"{made.scheme}, {made.layers} of {made.of} layers; {quality}; {speed}"


@app.command()
def calibrate(
    spec: Spec,
    weights: Weights,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write.")],
    names: Names = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
) -> None:
    """Watch the networks along their sampler's trajectories, for `compile --calibration`."""
    with _bar("calibrating") as bar:
        found = api.calibrate(spec, weights, output, variant, overrides or (), names, key, _progress(bar))
    about = found.about
    seen = f"{len(found.inputs)} inputs of layers on {sum(map(len, found.feeds.values()))} evaluations"
    _print(f"{output}: {seen}, {about['samples']} samples from seed {about['seed']}")


@app.command()
def sample(
    bundle: Bundle,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="A PNG, a row a class.")] = None,
    classes: Annotated[str, typer.Option("--class", metavar="CLASSES", help="0-9, 1,4,7 or all.")] = "all",
    per_class: Annotated[int, typer.Option("--per-class", min=1, metavar="N", help="Samples of each class.")] = 1,
    seed: Seed = 0,
    guidance: Annotated[float | None, typer.Option("--guidance", metavar="SCALE", help="Else the spec's.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="One of the bundle's step counts.")] = None,
    noise: Annotated[Path | None, typer.Option("--noise", metavar="FILE", help="An .npz of the noise itself.")] = None,
    raw: Annotated[
        Path | None, typer.Option("--raw", metavar="FILE", help="An .npz for the samples as they are.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, metavar="N", help="Samples at once.")] = None,
    device: Device = "auto",
) -> None:
    """Sample from a bundle."""
    if output is None and raw is None:
        raise typer.BadParameter("nothing to write: give -o FILE.png, --raw FILE.npz or both")
    with _bar("sampling") as bar:
        api.sample(bundle, classes, per_class, seed, guidance, steps, noise, batch, device, output, raw, _progress(bar))
    _print("\n".join(str(path) for path in (output, raw) if path is not None))


@app.command()
def verify(
    bundle: Bundle,
    budget: Annotated[float | None, typer.Option("--budget", metavar="SECONDS", help="Time it may take.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Verify a bundle: the oracle, the emitted PyTorch and the engine agree, and a control does not."""
    with _bar("verifying") as bar:
        report = api.verify(bundle, budget, device, seed, _progress(bar))
    _print(report.data() if as_json else report.text(), end="")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def bench(
    bundle: Bundle,
    batch: Annotated[str, typer.Option("--batch", metavar="N,N", help="Batch sizes.")] = "1,8",
    steps: Annotated[str, typer.Option("--steps", metavar="N,N", help="Step counts; else all.")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Beside the emitted PyTorch.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="Time for each case.")] = 5.0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure a bundle: samples a second, time a step, and against the emitted PyTorch."""
    batches, counts = numbers_from_text(batch), numbers_from_text(steps)
    with _bar("measuring") as bar:
        report = api.bench(bundle, batches, counts, compare, seconds, device, _progress(bar))
    _print(report.data() if as_json else report.text(), end="")


@deploy.callback()
def _deploy() -> None:
    pass  # so that `triton` stays a verb of its own


@deploy.command()
def triton(
    bundle: Bundle,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPO", help="The model repository to write.")],
    kind: Annotated[
        Literal["auto", "ensemble", "sampler"],
        typer.Option("--kind", help="Triton runs the engine, or latentc's runtime does."),
    ] = "auto",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The model's name; else the spec's.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="One of the bundle's step counts.")] = None,
    instances: Annotated[int, typer.Option("--instances", min=1, metavar="N", help="Engines side by side.")] = 1,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where they run.")] = "auto",
    delay: Annotated[
        int, typer.Option("--delay", min=0, metavar="US", help="Wait of a request for others, µs.")
    ] = 1000,
    threads: Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads of one.")] = None,
    as_json: Json = False,
) -> None:
    """Write a bundle as a model repository of NVIDIA Triton."""
    with _bar("deploying"):
        made = api.deploy_triton(bundle, output, kind, name, steps, instances, device, delay, threads)
    if as_json:
        _print({"repository": str(output), **vars(made)})
        return
    _print(f"{output}: model {made.model}, {made.kind} ({made.why})")
    _print(f"tritonserver --model-repository {output.resolve()}")


@app.command()
def tune(
    spec: Spec,
    weights: Weights,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder of results to write.")],
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", metavar="NAME=VALUE", help="error=0.05, frechet=1.1x, evaluations=10; repeatable."),
    ] = None,
    names: Names = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
    evaluations: Annotated[str, typer.Option("--evaluations", metavar="N,N", help="What to try; else 2 to 50.")] = "",
    samples: Annotated[int, typer.Option("--samples", min=16, metavar="N", help="Samples that are judged.")] = 256,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Samples that are timed at once.")] = 1,
    seed: Seed = 0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0, help="Time for the search.")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="FILE.py:FUNCTION", help="Judges samples and their classes.")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Tune the sampler: the fewest steps at a quality, as a spec that extends this one, with a plot."""
    with _bar("tuning") as bar:
        found = api.tune(
            spec,
            weights,
            output,
            budget or (),
            variant,
            overrides or (),
            names,
            key,
            numbers_from_text(evaluations),
            samples,
            batch,
            seed,
            seconds,
            metric,
            device,
            _progress(bar),
        )
    _print(found.data() if as_json else found.text(), end="")
    if not as_json:
        _print(f"{output}: tuned.yaml candidates.csv pareto.svg pareto.png")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what of latentc works on this machine, and how to mend what does not."""
    with _bar("looking"):
        report = api.doctor()
    _print(report.data() if as_json else report.text(), end="")
    if not report.ok:
        raise typer.Exit(1)


# ---- printing


def _print(value: Any, end: str = "\n") -> None:
    """Text as it is, anything else as JSON."""
    text = value + end if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if sys.stdout is not None:  # closed by who started us
        sys.stdout.write(text)


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A progress bar on stderr, of what takes over two seconds. Without a total it shows the time."""
    from tqdm import tqdm

    done = threading.Event()
    with tqdm(desc=what, delay=2, leave=False, file=sys.stderr, bar_format="{desc}: {elapsed}") as bar:

        def tick() -> None:
            while not done.wait(2 if bar.n == 0 else 0.5):
                bar.refresh()

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield bar
        finally:
            done.set()
            ticker.join()


def _progress(bar: Any) -> Callable[..., None]:
    def progress(done: int, total: int, what: str | None = None) -> None:
        bar.total, bar.bar_format = total, None
        if what is not None:
            bar.set_description(what, refresh=False)
        bar.update(done - bar.n)

    return progress


# ---- the way in


def _version(wanted: bool) -> None:
    if wanted:
        _print(f"latentc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of internal errors.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script. Exit 0, or 1 for what the user can mend, 2 for a fault of latentc, 130 for Ctrl-C."""
    # As an exception, so that what is half-written is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command line; returns the exit status."""
    debug = "--debug" in args
    diagnostics: Sequence[Diagnostic]
    try:
        # --debug is taken out here, so that it may stand behind the verb as well.
        args = [arg for arg in args if arg != "--debug"] or ["--help"]
        given = app(args, prog_name="latentc", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        status, diagnostics = given if isinstance(given, int) else 0, ()
    except (Exception, KeyboardInterrupt) as error:
        status, diagnostics = exit_status(error, debug)
        if debug and status == 2:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):
            sys.stdout = None  # Python would flush it once more
    if status == INTERRUPTED:
        sys.stderr.write("interrupted\n")
    sys.stderr.write(render(diagnostics, color=sys.stderr.isatty()))
    return status


if __name__ == "__main__":
    main()
