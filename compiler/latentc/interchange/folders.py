"""Reads a folder of diffusers, a pipeline or a single model, as changes to a shipped spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentc.diagnostics import DiagnosticError
from latentc.interchange.copies import are_equal, copies
from latentc.interchange.diffusers import (
    FIRST_STAGES,
    MODELS,
    SCHEDULERS,
    Config,
    Data,
    Model,
    class_of,
    wrong_class,
)
from latentc.interchange.diffusers.text import ENCODERS, Texts
from latentc.spec import load_spec
from latentc.weights import open_weights
from latentc_runtime.class_names import is_name

INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
FIRST_STAGE_FILE = "first_stage.yaml"
_LARGEST = 1 << 24  # largest size of a JSON file, in bytes


@dataclass(frozen=True)
class Pipeline:
    """A pipeline of diffusers: where its network and autoencoder are, its default number of steps.

    `model`: the class of its network, which takes one of the sets of `conditions`. `spec`: the shipped spec that it is,
    if not that of the network. `scheduler`: the class that it converts every scheduler to, if it does; `schedulers`:
    the only ones that it takes, otherwise those of denoisers. `scales_noise`: it scales the state as they expect.
    `null_class`: the class that guidance contrasts with, if it guides. `texts`: the condition that it encodes a text
    as. `encoders`: parts for texts that have no equivalent, so that requests pass what they return. `even`: it lays out
    noise levels itself, evenly. `shifts`: it shifts latents as the autoencoder's configuration says.
    """

    network: str
    model: str
    autoencoder: str | None
    steps: int
    conditions: tuple[tuple[str, ...], ...] = ((),)
    spec: str | None = None
    scheduler: str | None = None
    schedulers: tuple[str, ...] = ()
    scales_noise: bool = False
    null_class: int | None = None
    texts: Texts | None = None
    encoders: tuple[str, ...] = ()
    even: bool = False
    shifts: bool = False

    @property
    def for_texts(self) -> bool:
        """Whether it has text encoders."""
        return self.texts is not None or bool(self.encoders)


PIPELINES = {
    "DiTPipeline": Pipeline("transformer", "DiTTransformer2DModel", "vae", 50, (("class",),), null_class=1000),
    "DDPMPipeline": Pipeline("unet", "UNet2DModel", None, 1000),
    "DDIMPipeline": Pipeline("unet", "UNet2DModel", None, 50, scheduler="DDIMScheduler"),
    "LDMPipeline": Pipeline("unet", "UNet2DModel", "vqvae", 50, scales_noise=True),
    "ConsistencyModelPipeline": Pipeline(
        "unet",
        "UNet2DModel",
        None,
        1,
        ((), ("class",)),
        spec="cm",
        schedulers=("CMStochasticIterativeScheduler",),
        scales_noise=True,
    ),
    "LDMTextToImagePipeline": Pipeline(
        *("unet", "UNet2DConditionModel", "vqvae", 50, (("context",),)),
        texts=Texts("context", "bert", "tokenizer", 77, "none"),
    ),
    **{
        f"PixArt{which}Pipeline": Pipeline(
            *("transformer", "PixArtTransformer2DModel", "vae", 20, (("caption",),)),
            scales_noise=True,
            texts=Texts("caption", "text_encoder", "tokenizer", length),
        )
        for which, length in (("Alpha", 120), ("Sigma", 300))
    },
    "StableDiffusion3Pipeline": Pipeline(
        *("transformer", "SD3Transformer2DModel", "vae", 28, (("pooled", "caption"),)),
        schedulers=("FlowMatchEulerDiscreteScheduler",),
        encoders=tuple(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")),
        shifts=True,
    ),
    "FluxPipeline": Pipeline(
        *("transformer", "FluxTransformer2DModel", "vae", 28, (("pooled", "caption"),)),
        schedulers=("FlowMatchEulerDiscreteScheduler",),
        encoders=tuple(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2")),
        even=True,
        shifts=True,
    ),
}


@dataclass
class Found:
    """A system that was recognised: the spec's content (weights as paths), that of its first stage, and notes."""

    system: str
    spec: Data
    first_stage: Data | None = None
    notes: list[str] = field(default_factory=list)


def is_diffusers(path: Path) -> bool:
    """True if a folder holds a pipeline or a model of diffusers."""
    return (path / INDEX).is_file() or ((path / CONFIG).is_file() and "_class_name" in _json(path / CONFIG))


def found_in_folder(folder: Path) -> Found:
    """The spec of a pipeline or model. DiagnosticError E0402, E0403 (not JSON), E0416."""
    if (folder / INDEX).is_file():
        return _Reader(folder).pipeline()
    return _Reader(folder).model_alone()


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: list[str] = []
        self.notes: list[str] = []

    def pipeline(self) -> Found:
        index = _json(self.folder / INDEX)
        kind = str(index.get("_class_name"))
        if kind not in PIPELINES:
            raise _cannot(self.folder, [wrong_class(f"the pipeline {kind}", PIPELINES)])
        pipeline = PIPELINES[kind]
        network, autoencoder = pipeline.network, pipeline.autoencoder
        for part, given in index.items():
            known = part.startswith("_") or part in (network, autoencoder, "scheduler", "id2label")
            known = known or (pipeline.texts is not None and part in (pipeline.texts.encoder, pipeline.texts.tokenizer))
            known = known or part in pipeline.encoders
            if not known and given not in (None, [None, None]):
                self.notes.append(f"{kind}.{part} is not taken over")
        spec, config = self.model(self.folder / network, _class_of(index, network))
        if pipeline.spec is not None:
            spec["extends"] = pipeline.spec
        scheduled = self.scheduler(_class_of(index, "scheduler"), kind, spec)
        if pipeline.spec is not None and spec.pop("objective").get("variance") == "learned_range":
            self.refused.append(f"{config.name}.out_channels is {config['out_channels']!r}: {kind} has no variance")
        spec = merged(spec, scheduled)
        most = spec["objective"].get("process", {}).get("steps", pipeline.steps)
        spec["sampler"]["steps"] = min(pipeline.steps, most)
        if pipeline.encoders:
            taken = ", ".join(spec["data"]["fields"])
            self.notes.append(f"{kind} has text encoders without an equivalent: requests pass {taken}")
        if pipeline.texts is not None:
            self.texts(pipeline.texts, _class_of(index, pipeline.texts.encoder), spec)
        if spec["sampler"].get("variance") == "learned_range" and (autoencoder or not _learns(spec)):
            self.refused.append(f"DDPMScheduler.variance_type is 'learned_range', but {kind} predicts no variance")
        if "classes" in spec["data"] and ("class",) not in pipeline.conditions:
            self.notes.append(f"{kind} does not pass a class to its network, which takes one")
        first_stage = None
        if autoencoder is not None:
            first_stage = self.autoencoder(autoencoder, _class_of(index, autoencoder), spec, kind)
        if pipeline.null_class is not None:
            self.classes(index.get("id2label"), spec, kind, pipeline.null_class)
        if self.refused:
            raise _cannot(self.folder, self.refused)
        name = f"{kind} of diffusers, with {_class_of(index, 'scheduler')}"
        return Found(name, spec, first_stage, self.notes)

    def model_alone(self) -> Found:
        kind = class_of(_json(self.folder / CONFIG), "None")
        spec, _ = self.model(self.folder, kind)
        if self.refused:
            raise _cannot(self.folder, self.refused)
        if MODELS[kind].SCHEDULED:
            self.notes.append(f"a {kind} alone has no scheduler: the sampler is that of the spec `{spec['extends']}`")
        return Found(f"{kind} of diffusers", spec, None, self.notes)

    def model(self, folder: Path, kind: str, models: Mapping[str, Model] = MODELS) -> tuple[Data, Config]:
        """The spec of a network alone: changes to its shipped spec, with the weights."""
        given = _json(folder / CONFIG)
        kind = class_of(given, kind)
        if kind not in models:
            raise _cannot(folder, [wrong_class(f"the class {kind}", models)])
        model = models[kind]
        config = model.config_of(given)
        changes = model.changes(config)
        self.collect(config)
        model = self.fitting(model, folder, changes)
        checkpoint = {"weights": folder, "names": model.MAP}
        return {"extends": model.SPEC, **changes, "checkpoints": {"main": checkpoint}}, config

    def scheduler(self, kind: str, pipeline: str, spec: Data) -> Data:
        file, of = self.folder / "scheduler" / SCHEDULER_CONFIG, PIPELINES[pipeline]
        given = _json(file)
        kind = of.scheduler or str(given.get("_class_name", kind))
        taken = of.schedulers or [name for name, scheduler in SCHEDULERS.items() if scheduler.DENOISES]
        if kind not in taken:
            reason = wrong_class(f"the scheduler {kind}", dict.fromkeys(taken))
            mend = f"in diffusers, replace it by {taken[0]}.from_config(pipe.scheduler.config), and save the pipeline"
            raise _cannot(file, [reason], mend)
        scheduler = SCHEDULERS[kind]
        config = scheduler.config_of(given)
        side, patch = spec["data"]["shape"][-1], spec["backbone"].get("patch", 2)  # FLUX's class has none
        changes = scheduler.changes_in(config, (side // patch) ** 2, of.even)
        self.collect(config)
        if scheduler.SCALES_NOISE and not of.scales_noise:
            self.notes.append(
                f"{kind}: the state is scaled as the scheduler expects, which {pipeline} does not do, so images differ"
            )
        return changes

    def autoencoder(self, part: str, kind: str, spec: Data, pipeline: str) -> Data:
        """The spec of the first stage; adds it to the data of the other one."""
        stage, config = self.model(self.folder / part, kind, FIRST_STAGES)
        scale, shift = config.values["scaling_factor"], config.values.get("shift_factor")
        if not isinstance(scale, int | float) or scale <= 0:
            self.refused.append(f"{config.name}.scaling_factor is {scale!r}: it must be a positive number")
            scale = 1.0
        moved: Data = {}
        if PIPELINES[pipeline].shifts:  # the shipped spec has a variant and a shift, which these replace
            moved = {"variant": None, "shift": float(shift) if isinstance(shift, int | float) else 0.0}
        elif shift:
            self.notes.append(f"{config.name}.shift_factor is {shift!r}, which {pipeline} does not apply either")
        checkpoint = stage.pop("checkpoints")["main"]
        spec["data"]["first_stage"] = {"spec": FIRST_STAGE_FILE, **checkpoint, **moved, "scale": float(scale)}
        return {**stage, "checkpoints": {"main": checkpoint}}

    def texts(self, texts: Texts, kind: str, spec: Data) -> None:
        """The text encoder as a network of the spec; without one, requests pass the features and those of no text."""
        name, fields = texts.condition, spec["data"]["fields"]
        for kept in fields.values():
            kept["shape"] = [texts.length, *kept["shape"][1:]]
        if kind == "None":
            self.notes.append(f"without {texts.encoder}, requests pass {name} and {name}_null: features of texts")
            return
        if kind not in ENCODERS:
            self.refused.append(wrong_class(f"the {texts.encoder} {kind}", ENCODERS))
            return
        encoder, folder = ENCODERS[kind], self.folder / texts.encoder
        config = encoder.config_of(_json(folder / CONFIG))
        spec["data"] |= encoder.data(config, name, texts.length, self.folder / texts.tokenizer)
        spec["networks"] = {"text": {**encoder.network(config), "reads": name}}
        spec["conditioning"][name] = {
            "encoder": "text",
            "dropout": 0.1,
            "projection": texts.projection,
            **encoder.CONDITION,
        }
        spec["checkpoints"]["text"] = {"weights": folder, "names": encoder.NAMES_OF_WEIGHTS}
        if encoder.RULES:
            spec["weights"] = {encoder.NAMES_OF_WEIGHTS: encoder.RULES}
        self.collect(config)

    def classes(self, names: Any, spec: Data, pipeline: str, null: int) -> None:
        """`id2label` as the names of the classes."""
        count = spec["data"].get("classes", 0)
        if count != null:
            self.notes.append(
                f"guidance uses class {count} as the null class; {pipeline} uses {null}, which {count} "
                "classes do not include"
            )
        if names is None:
            return
        by_id = {}
        for key, value in names.items() if isinstance(names, Mapping) else ():
            if str(key).isdecimal() and isinstance(value, str):
                by_id[int(key)] = " ".join(value.split())
        if sorted(by_id) != list(range(count)) or not all(map(is_name, by_id.values())):
            self.notes.append(f"id2label names {len(by_id)} of {count} classes and is not taken over")
            return
        spec["data"]["class_names"] = [by_id[i] for i in range(count)]

    def collect(self, config: Config) -> None:
        """Take over what a configuration refused and noted, and what nobody read."""
        self.refused += config.refused
        self.notes += config.notes
        self.notes += [f"{config.name}.{key} = {config.values[key]!r} is not taken over" for key in config.left()]

    def fitting(self, model: Model, folder: Path, changes: Data) -> Model:
        """The model, or the one that has the tensors that this one takes for copies, if they differ."""
        if model.UNTIED is None:
            return model
        tensors, rules = open_weights(folder), load_spec(model.SPEC).weights[model.MAP]["main"]
        most = len(tensors)  # no file has more blocks, whatever the configuration says
        sizes = {name: min(size, most) for name, size in changes["backbone"].items() if isinstance(size, int)}
        return model if are_equal(tensors, copies(tensors, rules, sizes)) else model.UNTIED


def _learns(spec: Data) -> bool:
    return bool(spec["objective"].get("variance") == "learned_range")


def _class_of(index: Mapping[str, Any], part: str) -> str:
    """The class that `model_index.json` names for a part."""
    given = index.get(part)
    return str(given[1]) if isinstance(given, list) and len(given) == 2 else "None"


def merged(base: Data, over: Data) -> Data:
    """Two levels of plain data, the second over the first."""
    made = dict(base)
    for key, value in over.items():
        made[key] = merged(made[key], value) if isinstance(value, dict) and isinstance(made.get(key), dict) else value
    return made


def _json(path: Path) -> Data:
    """A JSON object. DiagnosticError E0401 to E0403."""
    try:
        if path.stat().st_size > _LARGEST:
            raise DiagnosticError.of("E0403", f"{path} is too large to be a configuration")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DiagnosticError.of("E0401", f"no such file: {path}", help="save the pipeline again, whole") from error
    except OSError as error:
        raise DiagnosticError.of("E0402", f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DiagnosticError.of("E0403", f"{path} is not valid JSON") from error
    if not isinstance(found, dict):
        raise DiagnosticError.of("E0403", f"{path} does not hold a JSON object")
    return found


def _cannot(path: Path, reasons: list[str], help: str | None = None) -> DiagnosticError:
    """The diagnostic for what no spec can express."""
    first, *rest = reasons
    notes = ("\n".join(rest),) if rest else ()
    return DiagnosticError.of("E0416", f"{path} cannot be imported: {first}", notes=notes, help=help)
