"""Weights under the authors' names give the authors' numbers by every backend, and are written back unchanged."""

from __future__ import annotations

import fnmatch
import importlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, Forward, Loss, Sampler
from emitted import emitted
from parity_data import LIMIT, ROUNDING, Numbers, error, excess, load

import latentc_runtime
from latentc.checkpoint import arrays, name_map, network_weights, symbols, write_weights
from latentc.components.contract import Lowered
from latentc.export.bundle import bundle_from_lowered
from latentc.ir.core import networks_called
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.measure.forward import output_names, run_method
from latentc.measure.loss import run_loss, update_called
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array, Expr, ignored_names, read_safetensors, write_safetensors
from latentc.weights.read import materialise
from latentc_runtime.sources import ConditionSource, RandomSource

# Recorded tensors that an export lacks.
LACKING = {
    "d_ar.encode": ["diff_decoder.net.repa_out.*"],  # of its alignment with DINOv2
    "mage": ["vqgan.*"],  # the tokenizer, which is the spec vq_maskgit
    "mage:vq_maskgit.main": [],
    "himar.stages": ["cond_diffloss.net.*pos_embed"],  # of the head
    # filters, which follow from the sizes
    "stylegan_xl.G": ["*.up_filter", "*.down_filter"],
    "umd.vit_ae": ["*"],  # an export has the names of blocks that the authors' code scans over (`scan: True`)
    "umd.vit_ae_nomask": ["*"],
}
# Tensors that an export holds and the recording lacks.
FURTHER = {
    # a weight that two layers share is recorded once, and is in the state dict twice
    "maskgen_vq": ["lm_head.weight"],
    "maskgen_vq.sampler": ["lm_head.weight"],
    "gpt2.class_prefix": ["lm_head.weight"],
    "bert.masked_lm": ["cls.predictions.decoder.*"],
    "bert.segments": ["cls.predictions.decoder.*"],
    "bart.seq2seq": ["lm_head.weight", "model.*.embed_tokens.weight"],
    "gedi.gpt2": ["lm_head.weight"],
    "t5.gated": ["encoder.embed_tokens.weight"],
    "t5.relu": ["encoder.embed_tokens.weight"],
    "maskgit_pt": ["head.weight"],
    # not recorded, or only one of several equal buffers
    "deltafm.sit": ["pos_embed"],
    "tread.dit": ["pos_embed"],
    "tread.dit_routed": ["pos_embed"],
    "starflow.fwd": ["blocks.*.attn_mask"],
    "starflow_v.fwd:starflow_v.denoiser": [],
    "starflow_v.fwd": ["blocks.*.attn_mask", "var", "feat_rope.*"],
    "mage.classifier": ["token_emb.position_ids", "head.0.num_batches_tracked"],
    "rcg.mage": ["*pos_embed", "decoder_pred.*", "patch_embed.*", "*_token", "token_emb.position_ids"],
    # with the prefix of a whole checkpoint, by the first alternative of the map
    "dp3.pointnet": ["extractor.*"],
    "taming.patchgan": ["loss.discriminator.*"],
    "umd.vit_ae": ["*Scan*"],
    "umd.vit_ae_nomask": ["*Scan*"],
}
# Tensors whose values are not those recorded.
DIFFERENT = {
    # unused by the authors' code, and drawn at random for the recording
    "adcgan.D": ["embed.*"],
    "arpg": ["embeddings.weight"],  # its last row
    "ic_gan.G_instance": ["shared.weight"],
    "dimr.rotary": ["stages.*.pos_emb.*"],
    "shortcut": ["Embed_0.embedding"],
    "mage:vq_maskgit.main": [],
    "mage": ["*pos_embed", "decoder_pred.*", "patch_embed.*", "*_token"],
    "mage.classifier": ["pos_embed", "patch_embed.*", "cls_token"],
    "neural_csa.shift": ["transform.nn.layers.0.weight"],  # where the mask is 0
    "neural_csa.inverse": ["transform.nn.layers.0.weight"],
    "rcg.dit": ["y_embedder.embedding_table.weight"],
    # computed in float32 by the authors, from a difference of nearly equal numbers
    "edm.iddpm": ["u"],
    # one power iteration from the recorded vector gives it; `project.u` alone is kept
    "cgnc": ["snlinear.weight_v"],
    # of another largest noise level than the spec has, not used by the calls that are recorded
    "score_sde.ncsnpp_skip": ["sigmas"],
    # the batches that a norm has counted, which nothing reads
    "rcg.encoder": ["*.num_batches_tracked"],
}
FILES = sorted(Path(__file__).parent.glob("*.py"))
MODULES = [path.stem for path in FILES if path.stem != "cases" and not path.stem.startswith("test_")]
CASES: list[Case] = [case for module in MODULES for case in importlib.import_module(module).CASES]


def of(kind: type[Case]) -> Any:
    """The cases of a kind. By their scope, all tests of one case follow one another and read its numbers once."""
    cases = [case for case in CASES if type(case) is kind]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.numbers, scope="module")


def on_backends(cases: Iterable[tuple[Any, Sequence[str]]]) -> Any:
    """(case, backend) of each case: all on the oracle, and on PyTorch and the engines in turn.

    All run on all backends with `--exhaustive`, and `make verified` runs every system on all of them.
    """
    pairs = []
    for number, (case, backends) in enumerate(cases):
        others = [name for name in backends if name != "oracle"]
        for backend in backends:
            left_out = backend in others and others.index(backend) != number % len(others)
            pairs.append(pytest.param(case, backend, marks=[pytest.mark.exhaustive] if left_out else []))
    return pytest.mark.parametrize(
        ("case", "backend"), pairs, ids=lambda value: getattr(value, "numbers", value), scope="module"
    )


@lru_cache(maxsize=8)
def lowered_of(name: str, variant: str | None, sizes: tuple[str, ...]) -> tuple[Any, Lowered]:
    """A spec and what it is lowered to, once for all backends."""
    spec = load_spec(name, variant, list(sizes))
    return spec, lower(spec)


@dataclass(frozen=True)
class Official:
    """A case's numbers, its spec, what that is lowered to, and a weights file per network."""

    case: Case
    numbers: Numbers
    spec: Any
    lowered: Lowered
    files: list[str]

    @cached_property
    def weights(self) -> dict[str, Any]:
        """The weights of the networks that the case is about, by latentc's own names, in memory."""
        networks = None
        if isinstance(self.case, Forward):
            networks = [self.case.network]
        elif isinstance(self.case, Loss):
            loss = update_called(self.lowered, self.case.update).loss
            networks = networks_called(self.lowered.module, self.lowered.module.entries[loss])
        found = network_weights(self.spec, self.lowered, self.files, self.case.names, None, networks)
        return {name: {path: Array(a) for path, a in arrays(own).items()} for name, own in found.items()}

    @cached_property
    def whole(self) -> dict[str, np.ndarray]:
        """The weights of all networks as the oracle takes them."""
        return {f"{network}.{name}": a for network, own in self.weights.items() for name, a in arrays(own).items()}


FOLDER = tempfile.TemporaryDirectory(prefix="latentc-parity-")


@lru_cache(maxsize=4)
def official(case: Case) -> Official:
    """The parts of a case that all its tests share."""
    numbers, folder = load(case.numbers), Path(tempfile.mkdtemp(dir=FOLDER.name))
    spec, lowered = lowered_of(case.spec, case.variant, tuple(case.sizes))
    files = []
    for network, prefix in case.prefixes.items():
        others = tuple(other for other in case.prefixes.values() if len(other) > len(prefix))
        names = [n for n in numbers.weights if n.startswith(prefix) and not n.startswith(others)]
        own = {n.removeprefix(prefix): Array(numbers.weights[n]) for n in names}
        write_safetensors(folder / f"{network}.safetensors", own)
        files.append(f"{network}={folder / network}.safetensors")
    return Official(case, numbers, spec, lowered, files)


def by_name(case: Case, numbers: Numbers, spec: Any, names: list[str]) -> list[np.ndarray]:
    given = case.inputs(numbers, spec)
    return [np.asarray(given[name]) for name in names]


def check(one: Official, out: Any, wanted: np.ndarray, run: Callable[[str], Any] | None = None) -> None:
    """`out`: an array, or several by name. `run`: computes it by the oracle with floats of a dtype, if `out` is its."""

    def given(out: Any) -> np.ndarray:
        return one.case.output(out if isinstance(out, dict) else np.asarray(out), one.numbers, one.spec)

    found = error(given(out), wanted)
    assert found < one.case.tolerance, found
    if run is not None:
        times = excess(given(out), wanted, one.case.numbers)
        if times > LIMIT and one.case.numbers not in ROUNDING:  # more than a float32 spacing
            times = excess(given(out), wanted, one.case.numbers, given(run("f32")))
        assert times <= LIMIT, times


def tensors(given: list[np.ndarray]) -> list[torch.Tensor]:
    floats = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in given]
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in floats]


def built(project: Any, weights: dict[str, Any], name: str) -> torch.nn.Module:
    model = project.model.NETWORKS[name]().eval()
    kept = model.state_dict()
    own = arrays(weights).items()
    model.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in own if n in kept})
    return model  # type: ignore[no-any-return]


@on_backends((case, ("oracle", "torch", "onnx", "openvino")) for case in CASES if isinstance(case, Forward))
def test_forward(case: Forward, backend: str) -> None:
    one = official(case)
    names = [port.name for port in one.lowered.networks[case.network].methods[case.method].inputs]
    given = dict(zip(names, by_name(case, one.numbers, one.spec, names), strict=True))
    outs = run_method(one.spec, one.lowered, one.weights[case.network], given, backend, case.network, case.method)
    method, own = one.lowered.networks[case.network].methods[case.method], arrays(one.weights[case.network])

    def run(dtype: str) -> Any:
        outs = Interpreter(one.lowered.module, own, dtype).run(method.function, *given.values())
        return dict(zip(output_names(method), outs, strict=True)) if case.every_output else outs[0]

    out = outs if case.every_output else next(iter(outs.values()))
    check(one, out, case.wanted(one.numbers), run if backend == "oracle" else None)


def exceptions(table: dict[str, list[str]], case: Case) -> list[str]:
    """Those of a case, or of the network of a case whose numbers belong to several."""
    return table.get(f"{case.numbers}:{case.spec}.{getattr(case, 'network', '')}", table.get(case.numbers, []))


def matched(names: set[str], patterns: list[str]) -> set[str]:
    """The names that no pattern matches; each pattern must match one."""
    assert {pattern for pattern in patterns if not fnmatch.filter(names, pattern)} == set()
    return {name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


@of(Forward)
def test_weights_come_back_under_the_official_names(case: Forward, tmp_path: Path) -> None:
    """An export has the names, shapes and values of the recorded state dict, so that the authors' code loads it."""
    one, back = official(case), tmp_path / "back.safetensors"
    own = {case.network: one.weights[case.network]}
    write_weights(one.spec, one.lowered, own, back, case.names, {})
    (path,) = (file.removeprefix(f"{case.network}=") for file in one.files if file.startswith(f"{case.network}="))
    recorded = {name.replace("/", "."): tensor for name, tensor in read_safetensors(Path(path)).items()}
    written = read_safetensors(back)
    of_others = set()
    for network in one.spec.weights[case.names].keys() & one.lowered.networks.keys() - {case.network}:
        rules, sizes = name_map(one.spec, network, case.names), symbols(one.lowered, one.lowered.networks[network])
        of_others |= recorded.keys() - ignored_names(rules, recorded, sizes)
    assert matched(recorded.keys() - written.keys() - of_others, exceptions(LACKING, case)) == set()
    assert matched(written.keys() - recorded.keys(), exceptions(FURTHER, case)) == set()
    both = written.keys() & recorded.keys()
    assert {name for name in both if written[name].shape != recorded[name].shape} == set()
    changed = {name for name in both if not same(written[name], recorded[name])}
    assert matched(changed, exceptions(DIFFERENT, case)) == set()
    sizes = symbols(one.lowered, one.lowered.networks[case.network])
    unneeded = ignored_names(name_map(one.spec, case.network, case.names), written, sizes)
    write_safetensors(tmp_path / "bare.safetensors", {n: t for n, t in written.items() if n not in unneeded})
    for file in (back, tmp_path / "bare.safetensors"):
        given = [f"{case.network}={file}"]
        again = network_weights(one.spec, one.lowered, given, case.names, None, [case.network])[case.network]
        for name, tensor in own[case.network].items():
            assert np.array_equal(materialise(tensor), materialise(again[name])), name


def same(written: Expr, recorded: Expr) -> bool:
    if (written.shape, written.dtype) != (recorded.shape, recorded.dtype):
        return False
    return np.allclose(materialise(written).astype(float), materialise(recorded).astype(float), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["oracle", "torch"])
@of(Loss)
def test_loss(case: Loss, backend: str) -> None:
    one = official(case)
    update = update_called(one.lowered, case.update)
    names = [value.name for value in one.lowered.module.entry(update.loss).inputs]
    given = dict(zip(names, by_name(case, one.numbers, one.spec, names), strict=True))
    found = run_loss(one.spec, one.lowered, update, one.weights, given, backend)  # type: ignore[arg-type]

    def run(dtype: str) -> Any:
        operands = [given[value.name] for value in one.lowered.module.entry(update.loss).inputs]
        return Interpreter(one.lowered.module, one.whole, dtype).run(update.loss, *operands)[0]

    wanted = case.wanted(one.numbers).mean()
    check(one, next(iter(found.values())), wanted, run if backend == "oracle" else None)


GRADIENTS = "out.grad."
DERIVED = [c for c in CASES if isinstance(c, Loss) and any(n.startswith(GRADIENTS) for n in load(c.numbers).outputs)]


@pytest.mark.parametrize("case", DERIVED, ids=lambda case: case.numbers)
def test_gradients(case: Loss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the emitted loss in float64, written under the official names, are the recorded ones."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # of integers in the emitted code
    one = official(case)
    update = update_called(one.lowered, case.update)
    names = [value.name for value in one.lowered.module.entry(update.loss).inputs]
    given = [torch.from_numpy(np.asarray(a)) for a in by_name(case, one.numbers, one.spec, names)]
    given = [a.double() if a.is_floating_point() else a for a in given]
    with emitted(one.lowered, one.spec, tmp_path / "project") as project:
        made = next(u for u in project.objective.UPDATES if u.metrics == (update.metrics or ("loss",)))
        nets = {name: built(project, one.weights[name], name).double() for name in made.networks}
        out = made.loss(*nets.values(), **dict(zip(names, given, strict=True)))
        (case.scale * (out[0] if isinstance(out, tuple) else out)).backward()
    found: dict[str, Expr] = {}
    for name, net in nets.items():
        grads = {path: p.grad for path, p in net.named_parameters()}
        own = {path: np.zeros(tensor.shape) for path, tensor in one.weights[name].items()}
        own |= {path: grad.numpy() for path, grad in grads.items() if grad is not None}
        write_weights(one.spec, one.lowered, {name: {n: Array(a) for n, a in own.items()}}, tmp_path / name, case.names)
        found |= {f"{case.prefixes[name]}{n}": tensor for n, tensor in read_safetensors(tmp_path / name).items()}
    for output, wanted in one.numbers.outputs.items():
        if output.startswith(GRADIENTS):
            gradient = materialise(found[output.removeprefix(GRADIENTS).replace("/", ".")])
            assert error(gradient, wanted) < case.tolerance, output
            assert case.numbers not in ROUNDING or excess(gradient, wanted, case.numbers) <= LIMIT, output


@on_backends((case, case.backends) for case in CASES if isinstance(case, Sampler))
def test_sampler(case: Sampler, backend: str, tmp_path: Path) -> None:
    one = official(case)
    numbers, spec, lowered = one.numbers, one.spec, one.lowered
    program = next(each for each in lowered.programs if each.name == case.program)
    names = [value.name for value in lowered.module.entry(program.entry).inputs]
    given = dict(zip(names, by_name(case, numbers, spec, names), strict=True))

    def run(dtype: str) -> Any:
        return Interpreter(lowered.module, one.whole, dtype).run(program.entry, *given.values())[0]

    if backend == "oracle":
        out = run("f64")
    elif backend == "torch":
        with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
            made = project.sampler.PROGRAMS[program.name][program.steps]
            nets = [built(project, one.weights[name], name) for name in made.networks]
            out = made.sample(*nets, *tensors(list(given.values())))
            out = (out[0] if isinstance(out, tuple) else out).numpy()
    else:
        target = spec.target.model_copy(update={"engine": backend})
        aimed = spec.model_copy(update={"target": target})
        weights = {name: one.weights[name] for name in lowered.sampled}
        how: Any = {"spec_text": resolved_yaml(aimed), "max_batch": target.max_batch, "opset": target.opset}
        bundle = tmp_path / "bundle"
        bundle_from_lowered(optimised(lowered, aimed), aimed, weights, bundle, form=target.form, **how)
        pipe = latentc_runtime.load(bundle, device="cpu")
        told: dict[str, Any] = {}
        for name, source in program.sources.items():
            if isinstance(source, ConditionSource):
                told.setdefault(source.condition, {})[source.part] = given[name]
        told = {name: parts if "mask" in parts else parts["value"] for name, parts in told.items()}
        noise = {name: given[name] for name, source in program.sources.items() if isinstance(source, RandomSource)}
        out = pipe.sample(conditions=told, noise=noise, program=case.program)
    check(one, out, case.wanted(numbers), run if backend == "oracle" else None)
