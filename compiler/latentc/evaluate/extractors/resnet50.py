"""torchvision's ResNet-50 of ImageNet: which class a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentc.components.layers import MEAN, STD
from latentc.diagnostics.faults import needed
from latentc.evaluate.extractors.contract import Array, unusable
from latentc.evaluate.extractors.described import Described, Description, torch_device

PREPARED = Description(
    title="ResNet-50 of ImageNet (torchvision)",
    resize=256,
    crop=224,
    filter="bilinear",
    mean=MEAN,
    std=STD,
    logits=1,
    classifies=True,
)


class ResNet50(Described):
    """Features of the pooling f32[N, 2048], and logits of ImageNet's 1000 classes in the order of their synsets.

    The file is torchvision's `resnet50-11ad3fa6.pth` or `resnet50-0676ba61.pth`, or another state dict of that network.
    """

    def __init__(self, file: Path, device: str = "cpu") -> None:
        super().__init__("resnet50", file, PREPARED, device)

    def opened(self, file: Path, device: str) -> Any:
        return _network(file, torch_device(device))


def _network(file: Path, device: str) -> Any:
    """torchvision's network with the weights in `file`, as it was described. DiagnosticError E0706, E0721."""
    torch = needed("torch", "ResNet-50", 'pip install "latentc[evaluate]"')
    models = needed("torchvision.models", "ResNet-50", 'pip install "latentc[evaluate]"')
    network = models.resnet50(weights=None)
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:
        mend = "take torchvision's resnet50-11ad3fa6.pth"
        raise unusable(file, "does not hold the weights of ResNet-50", error, mend) from None
    network = network.eval().to(device)
    seen: list[Any] = []
    network.avgpool.register_forward_hook(lambda module, inputs, out: seen.append(out.flatten(1)))

    def run(x: Array) -> dict[Any, Array]:
        seen.clear()
        with torch.inference_mode():
            logits = network(torch.from_numpy(x).to(device))
        return {0: seen[0].cpu().numpy(), 1: logits.cpu().numpy()}

    return run
