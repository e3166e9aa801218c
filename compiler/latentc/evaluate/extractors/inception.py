"""The Inception network of 2015-12-05, by whose features FID, KID and the Inception Score are defined.

Symbols: N pictures, H height, W width.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed
from latentc.evaluate.extractors.contract import Array, Extractor, Features, file_identity, unusable
from latentc.evaluate.extractors.described import BATCH, open_torchscript, torch_device, with_channels

# How the sha256 of the published weights begin: torch-fidelity's state dict, NVIDIA's TorchScript.
PUBLISHED = ("6726825d", "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4")
SPATIAL = 7  # channels of sFID's features, 17 × 17 each
WHERE = (
    "torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or NVIDIA's inception-2015-12-05.pt (TorchScript, of "
    "stylegan2-ada-pytorch)"
)


class Inception(Extractor):
    """Features of the last pooling f32[N, 2048], logits f32[N, 1008] without bias, and sFID's f32[N, 2023].

    The file is a state dict of torch-fidelity, or NVIDIA's TorchScript, which has no spatial features. Both resize as
    TensorFlow 1 did. Its 1008 outputs are not numbered like ImageNet's classes. DiagnosticError E0401, E0402, E0706,
    E0721.
    """

    name = "inception"

    def __init__(self, file: Path, device: str = "cpu") -> None:
        self.sha256 = file_identity(file)
        if file.suffix == ".pkl":
            mend = f"opening a pickle can run code; use {WHERE}"
            raise DiagnosticError.of("E0721", f"{file} is a pickle", help=mend)
        needed("torch", "the Inception network", 'pip install "latentc[evaluate]"')
        published = self.sha256.startswith(PUBLISHED)
        self.title = "Inception v3 of 2015-12-05" if published else "Inception with other weights than those published"  # type: ignore[misc]
        self._frechet = "fid" if published else super().frechet
        self.device = torch_device(device)
        self._network = self._torchscript(file) if _is_torchscript(file) else self._state_dict(file)

    @property
    def frechet(self) -> str:
        return self._frechet

    @property
    def identity(self) -> str:
        return f"inception {self.sha256}"

    def extract(self, samples: Array) -> Features:
        import torch

        parts = []
        for i in range(0, len(samples), BATCH):
            pictures = with_channels(samples[i : i + BATCH], 3).transpose(0, 3, 1, 2)
            with torch.inference_mode():
                outs = self._network(torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device))
            parts.append([out.float().cpu().numpy() for out in outs])
        return Features(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _torchscript(self, file: Path) -> Any:
        module = open_torchscript(file, self.device)

        def network(x: Any) -> tuple[Any, ...]:
            return module(x, return_features=True), module(x, no_output_bias=True).log()

        return network

    def _state_dict(self, file: Path) -> Any:
        import torch

        needed("torch_fidelity", "the Inception network", 'pip install "latentc[evaluate]"')
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        names = ["2048", "logits_unbiased"]
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
                checked = Path(folder, "weights.pth")  # torch-fidelity opens pickles without restrictions
                torch.save(state, checked)
                network = FeatureExtractorInceptionV3(self.name, names, feature_extractor_weights_path=str(checked))
        except Exception as error:
            raise unusable(file, "does not hold the weights of the Inception network", error, f"take {WHERE}") from None
        network.to(self.device)
        seen: list[Any] = []
        # TensorFlow's node `mixed_6/conv`, of which ADM's sFID takes the first channels, height and width first.
        network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, out: seen.append(out))

        def run(x: Any) -> tuple[Any, ...]:
            seen.clear()
            outs = network(x)
            return (*outs, seen[0][:, :SPATIAL].permute(0, 2, 3, 1).flatten(1))

        return run


def _is_torchscript(file: Path) -> bool:
    """True if the archive holds code."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())
