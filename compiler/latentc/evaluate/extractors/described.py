"""Networks in files that a user names, TorchScript or ONNX, with a description of what they take and give.

Symbols: N samples, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError

from latentc.components import Closed
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed
from latentc.evaluate.extractors.contract import Array, Extractor, Features, file_identity, unusable

Side = Annotated[int, Field(gt=0, le=4096)]
Output = int | str
Network = Callable[[Array], dict[Output, Array]]
BATCH = 64  # images per network call


class Description(Closed):
    """Inputs and outputs of a feature network; a YAML file of these keys describes one of the user's own."""

    file: str | None = Field(None, description="the network, relative to the description: TorchScript (.pt) or .onnx")
    title: str | None = Field(None, description="display name")
    resize: Side | None = Field(None, description="side to which images are resized; null: not resized")
    crop: Side | None = Field(None, description="side of the centre crop that the network sees; null: no crop")
    filter: Literal["bicubic", "bilinear"] = Field("bicubic", description="filter of Pillow's resizing, antialiased")
    channels: Literal[1, 3] = Field(3, description="greyscale or RGB")
    range: tuple[float, float] = Field((0.0, 1.0), description="values of black and white before mean and std")
    mean: tuple[float, ...] = Field((0.0,), description="mean to subtract, per channel or one for all")
    std: tuple[float, ...] = Field((1.0,), description="standard deviation to divide by, per channel or one for all")
    features: Output = Field(0, description="index or name (ONNX) of the output with the features")
    logits: Output | None = Field(None, description="index or name of the output with the logits; null: none")
    classifies: bool = Field(False, description="the logits are for the data's classes, in their order")
    frechet: str | None = Field(
        None,
        pattern=r"^fd_[A-Za-z0-9_]{1,32}$",
        description="name of the Fréchet distance of these features, fd_…; null: fd_ and the name of this file",
    )


def read_description(file: Path) -> Description:
    """A description in YAML. DiagnosticError E0401, E0721."""
    if not file.is_file():
        raise DiagnosticError.of("E0401", f"no such file: {file}", help="`--features` takes NAME, NAME=FILE or a YAML")
    try:
        found = Description.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}" if first else str(error)
        keys = ", ".join(Description.model_fields)
        raise DiagnosticError.of("E0721", f"{file} describes no extractor: {why}", help=f"keys are {keys}") from None
    if found.file is None:
        raise DiagnosticError.of("E0721", f"{file} does not name a network file", help="add `file: network.onnx`")
    return found


class Described(Extractor):
    """A network that a `Description` describes. DiagnosticError E0401, E0402, E0706, E0721."""

    def __init__(self, name: str, file: Path, description: Description, device: str = "cpu") -> None:
        self.name, self.description = name, description  # type: ignore[misc]
        self.title = description.title or file.name  # type: ignore[misc]
        self.classifies = description.classifies and description.logits is not None
        self.file, self._sha256 = file, file_identity(file)
        self._network = _diagnosed(self.opened(file, device), file)

    @property
    def frechet(self) -> str:
        return self.description.frechet or super().frechet

    @property
    def identity(self) -> str:
        return f"{self._sha256} {self.description.model_dump_json(exclude={'file', 'title'})}"

    def opened(self, file: Path, device: str) -> Network:
        """The network: f32[N, C, H, W] -> its outputs by number and name."""
        return _onnx(file, device) if file.suffix == ".onnx" else _torchscript(file, device)

    def extract(self, samples: Array) -> Features:
        parts = [self._network(self.prepared(samples[i : i + BATCH])) for i in range(0, len(samples), BATCH)]
        features = np.concatenate([self._output(part, self.description.features) for part in parts])
        logits = None
        if (output := self.description.logits) is not None:
            logits = np.concatenate([self._output(part, output) for part in parts])
        return Features(features, logits)

    def prepared(self, pictures: Array) -> Array:
        """Pictures u8[N, H, W, C] as the network takes them, f32[N, C, H, W]."""
        wanted = self.description
        found = with_channels(pictures, wanted.channels)
        if wanted.resize is not None and found.shape[1:3] != (wanted.resize, wanted.resize):
            found = resized(found, wanted.resize, wanted.filter)
        if wanted.crop is not None:
            top, left = ((size - wanted.crop) // 2 for size in found.shape[1:3])
            found = found[:, top : top + wanted.crop, left : left + wanted.crop]
        low, high = wanted.range
        scaled = found.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        normal = (scaled - np.asarray(wanted.mean, np.float32)) / np.asarray(wanted.std, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)

    def _output(self, outputs: dict[Output, Array], wanted: Output) -> Array:
        if wanted not in outputs:
            held = ", ".join(str(name) for name in outputs)
            mend = "name one in `features` and `logits` of its description"
            raise DiagnosticError.of("E0721", f"{self.file} has no output `{wanted}`; it has {held}", help=mend)
        found = outputs[wanted]
        return found.reshape(len(found), -1).astype(np.float32)


def with_channels(pictures: Array, channels: int) -> Array:
    """Pictures u8[N, H, W, C] with 1 or 3 channels; grey is the weighted mean that Pillow takes."""
    if pictures.shape[3] == channels:
        return pictures
    if pictures.shape[3] == 1:
        return np.repeat(pictures, 3, axis=3)
    return np.rint(pictures[..., :3] @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)


def resized(pictures: Array, side: int, how: str) -> Array:
    """Pictures u8[N, H, W, C] at `side` × `side` pixels, by Pillow."""
    from PIL import Image

    filter = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[how]
    squeezed = pictures[..., 0] if pictures.shape[3] == 1 else pictures
    made = [np.asarray(Image.fromarray(picture).resize((side, side), filter)) for picture in squeezed]
    return np.stack(made).reshape(len(made), side, side, -1)


def torch_device(device: str) -> str:
    """The torch device for features: a GPU if there is one, unless the user asked for the CPU."""
    import torch

    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def open_torchscript(file: Path, device: str) -> Any:
    """A TorchScript file as a module. DiagnosticError E0706, E0721."""
    torch = needed("torch", "this extractor of features", 'pip install "latentc[evaluate]"')
    try:
        return torch.jit.load(str(file), map_location=torch_device(device)).eval()
    except Exception as error:
        mend = "write it with `torch.jit.trace(model, example).save(FILE)`, or as .onnx"
        raise unusable(file, "is not a TorchScript file", error, mend) from None


def _torchscript(file: Path, device: str) -> Network:
    module = open_torchscript(file, device)
    import torch

    def network(x: Array) -> dict[Output, Array]:
        with torch.inference_mode():
            outs = module(torch.from_numpy(x).to(torch_device(device)))
        outs = outs if isinstance(outs, tuple | list) else (outs,)
        return {i: out.float().cpu().numpy() for i, out in enumerate(outs)}

    return network


def _onnx(file: Path, device: str) -> Network:
    ort = needed("onnxruntime", "this extractor of features", 'pip install "latentc[cpu]"')
    held = ort.get_available_providers()
    wanted = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in held:
        wanted.insert(0, "CUDAExecutionProvider")
    try:
        session = ort.InferenceSession(str(file), providers=wanted)
    except Exception as error:
        raise unusable(file, "is not an ONNX network", error) from None
    input, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]

    def network(x: Array) -> dict[Output, Array]:
        outs = session.run(names, {input: x})
        return {**dict(enumerate(outs)), **dict(zip(names, outs, strict=True))}

    return network


def _diagnosed(network: Network, file: Path) -> Network:
    """The network, whose failures become diagnostics."""

    def called(x: Array) -> dict[Output, Array]:
        try:
            return network(x)
        except Exception as error:
            mend = "give the size that it takes in its description: `resize: 224`"
            raise unusable(file, f"failed on images {list(x.shape)}", error, mend) from None

    return called
