"""The extractors of features that `--features` can name.

`digits` and `principal` need no file. For the others the user names one, and the registry knows what it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latentc.components.layers import MEAN, STD
from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.evaluate.extractors.contract import Extractor
from latentc.evaluate.extractors.described import Described, Description, read_description
from latentc.evaluate.extractors.digits import Digits
from latentc.evaluate.extractors.inception import Inception
from latentc.evaluate.extractors.resnet50 import ResNet50

DESCRIBED: dict[str, Description] = {
    "dinov2": Description(title="DINOv2", resize=224, mean=MEAN, std=STD),
    "clip": Description(
        title="CLIP's image encoder",
        resize=224,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
}
"""Networks in TorchScript or ONNX whose input is known by name: DINOv2 as in EDM2 and dgm-eval, CLIP as in CMMD."""

WITH_FILE: dict[str, Callable[[Path, str], Extractor]] = {
    "inception": Inception,
    "resnet50": ResNet50,
    **{
        name: lambda file, device, name=name, row=row: Described(name, file, row, device)  # type: ignore[misc]
        for name, row in DESCRIBED.items()
    },
}
WITHOUT_FILE = ("digits", "principal")


def extractor_from_text(text: str, device: str = "cpu") -> Extractor | str:
    """The extractor that `NAME=FILE`, the path of a description in YAML or `digits` names.

    `principal` stays a name, because it needs reference samples. DiagnosticError E0401, E0402, E0706, E0721.
    """
    name, equals, file = text.partition("=")
    if equals:
        if name not in WITH_FILE:
            raise _unknown(name)
        return WITH_FILE[name](Path(file), device)
    if text in WITHOUT_FILE:
        return Digits() if text == Digits.name else text
    if text in WITH_FILE:
        mend = f"write `--features {text}=FILE`; docs/evaluation.md says where such files are published"
        raise DiagnosticError.of("E0721", f"features `{text}` need a file", help=mend)
    if Path(text).suffix not in (".yaml", ".yml"):
        raise _unknown(text)
    description = read_description(Path(text))
    network = Path(text).parent / str(description.file)
    return Described(Path(text).stem, network, description, device)


def _unknown(name: str) -> DiagnosticError:
    known = [*WITHOUT_FILE, *WITH_FILE]
    mend = did_you_mean(name, known, f"known features: {', '.join(known)}, or a description in FILE.yaml")
    return DiagnosticError.of("E0721", f"there are no features called `{name}`", help=mend)
