"""Extractors of features: files that users name, with and without a description."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.extractors import extractor_from_text
from latentc.evaluate.extractors.described import Described, Description
from latentc.evaluate.pictures import PIXELS, Samples

torch = pytest.importorskip("torch")

DESCRIPTION = """\
file: network{suffix}
title: a small network
resize: 8
crop: 6
filter: bilinear
mean: [0.5, 0.4, 0.3]
std: [0.5]
features: {features}
logits: {logits}
classifies: true
frechet: fd_own
"""


class Small(torch.nn.Module):
    """Two outputs: the mean of each row, and ten logits."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean(dim=3).flatten(1), x.flatten(1)[:, :10]


@pytest.fixture(scope="module")
def pictures() -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.integers(0, 256, (70, 16, 12, 3), dtype=np.uint8), PIXELS)


def write(folder: Path, suffix: str, features: object = 0, logits: object = 1) -> Path:
    if suffix == ".pt":
        torch.jit.script(Small()).save(str(folder / "network.pt"))
    else:
        import onnx
        from onnx import TensorProto, helper

        nodes = [
            helper.make_node("ReduceMean", ["x", "three"], ["rows"], keepdims=0),
            helper.make_node("Flatten", ["rows"], ["embedding"]),
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Slice", ["flat", "zero", "ten", "one"], ["scores"]),
        ]
        numbers = {"three": 3, "zero": 0, "ten": 10, "one": 1}
        constants = [helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in numbers.items()]
        outputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", w])
            for n, w in (("embedding", 18), ("scores", 10))
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, 6, 6])
        graph = helper.make_graph(nodes, "small", [x], outputs, constants)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "network.onnx"
        )
    file = folder / f"own{suffix[1:]}.yaml"
    file.write_text(DESCRIPTION.format(suffix=suffix, features=features, logits=logits))
    return file


def test_described_networks_agree_in_both_formats(tmp_path: Path, pictures: Samples) -> None:
    by_torch = extractor_from_text(str(write(tmp_path, ".pt")))
    by_onnx = extractor_from_text(str(write(tmp_path, ".onnx", "embedding", "scores")))
    assert isinstance(by_torch, Described) and isinstance(by_onnx, Described)
    found, other = by_torch(pictures), by_onnx(pictures)
    assert found.features.shape == (70, 18) and found.logits is not None and other.logits is not None
    np.testing.assert_allclose(found.features, other.features, atol=1e-5)
    np.testing.assert_allclose(found.logits, other.logits, atol=1e-5)
    assert by_torch.classifies and by_torch.frechet == "fd_own" and by_torch.title == "a small network"
    assert by_torch.identity != by_onnx.identity
    # What the description says of the pictures: resized by Pillow, the middle, scaled, mean and deviation.
    from PIL import Image

    small = Image.fromarray(pictures.array[0]).resize((8, 8), Image.Resampling.BILINEAR)
    wanted = (np.asarray(small)[1:7, 1:7] / 255 - [0.5, 0.4, 0.3]) / 0.5
    np.testing.assert_allclose(by_torch.prepared(pictures.array[:1])[0], wanted.transpose(2, 0, 1), atol=1e-6)


def test_several_extractors_have_figures_of_their_own(tmp_path: Path, pictures: Samples) -> None:
    own = write(tmp_path, ".pt")
    labels = np.arange(70) % 10
    np.savez(tmp_path / "a.npz", arr_0=pictures.array, arr_1=labels)
    np.savez(tmp_path / "b.npz", arr_0=pictures.array[::-1], arr_1=labels)
    found = api.evaluate(
        tmp_path / "a.npz", tmp_path / "b.npz", ["fd,recall,accuracy"], ["principal", str(own)], classifier=str(own)
    )
    figures = found.runs[0].result.figures
    assert set(figures) == {
        "fd_principal",
        "recall",
        "accuracy",
        "fd_own",
        f"recall_{own.stem}",
        f"accuracy_{own.stem}",
    }
    assert figures["fd_own"] == pytest.approx(0, abs=1e-4) and figures["recall"] == 1  # the same pictures
    assert "a small network" in found.text()


def test_grey_and_colour_pictures(tmp_path: Path) -> None:
    torch.jit.script(Small()).save(str(tmp_path / "n.pt"))
    grey = Samples(np.full((2, 6, 6, 1), 100, np.uint8), PIXELS)
    three = Described("own", tmp_path / "n.pt", Description())(grey)
    np.testing.assert_allclose(three.features, 100 / 255, rtol=1e-6)
    colour = np.zeros((2, 6, 6, 3), np.uint8)
    colour[..., 1] = 200
    one = Described("own", tmp_path / "n.pt", Description(channels=1))(Samples(colour, PIXELS))
    np.testing.assert_allclose(one.features, round(200 * 0.587) / 255, rtol=1e-6)


class Detector(torch.nn.Module):
    """As NVIDIA's TorchScript of Inception is called."""

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False) -> torch.Tensor:
        flat = x.float().flatten(1)
        if return_features:
            return flat[:, :20]
        assert no_output_bias
        return flat[:, :10].softmax(dim=1)


def test_inception_as_torchscript(tmp_path: Path, pictures: Samples) -> None:
    file = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Detector()).save(str(file))
    found = extractor_from_text(f"inception={file}")
    assert not isinstance(found, str) and not found.classifies and found.frechet == "fd_inception"
    features = found(pictures)
    flat = pictures.array.transpose(0, 3, 1, 2).reshape(70, -1).astype(np.float32)
    np.testing.assert_array_equal(features.features, flat[:, :20])
    assert features.logits is not None and features.spatial is None
    shifted = flat[:, :10] - flat[:, :10].max(axis=1, keepdims=True)
    probable = shifted > -50  # where the logarithm of the softmax still has digits
    ours = features.logits - features.logits.max(axis=1, keepdims=True)
    np.testing.assert_allclose(ours[probable], shifted[probable], atol=1e-2)


def test_resnet50_is_torchvisions(tmp_path: Path, pictures: Samples) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = models.resnet50(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    found = extractor_from_text(f"resnet50={tmp_path / 'resnet50.pth'}")
    assert isinstance(found, Described) and found.classifies
    features = found(pictures[:2])
    prepared = torch.from_numpy(found.prepared(pictures.array[:2]))
    assert prepared.shape == (2, 3, 224, 224)
    with torch.inference_mode():
        np.testing.assert_allclose(features.logits, network(prepared).numpy(), atol=1e-4)
    assert features.features.shape == (2, 2048)


class Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_files_that_hold_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Samples) -> None:
    monkeypatch.chdir(tmp_path)
    Path("code.pth").write_bytes(pickle.dumps(Runs()))
    torch.save({"other": torch.zeros(2)}, "other.pth")
    Path("text.onnx").write_text("no network")
    Path("inception.pkl").write_bytes(b"")
    Path("unknown.yaml").write_text("file: network.pt\nsize: 3\n")
    Path("nameless.yaml").write_text("resize: 3\n")
    Path("broken.yaml").write_text("file: [")
    for text, said in {
        "inception=code.pth": "does not hold the weights",
        "inception=other.pth": "does not hold the weights",
        "inception=inception.pkl": "is a pickle",
        "resnet50=code.pth": "does not hold the weights",
        "dinov2=code.pth": "not a TorchScript file",
        "clip=text.onnx": "not an ONNX network",
        "unknown.yaml": "size",
        "nameless.yaml": "does not name a network file",
        "broken.yaml": "describes no extractor",
        "vgg=other.pth": "no features called `vgg`",
    }.items():
        with pytest.raises(DiagnosticError, match=said) as caught:
            extractor_from_text(text)
        assert caught.value.diagnostics[0].code == "E0721"
    assert not Path("ran").exists()
    own = write(tmp_path, ".onnx", "embeding", 7)
    with pytest.raises(DiagnosticError, match="no output `embeding`"):
        extractor_from_text(str(own))(pictures)  # type: ignore[operator]
    Path("large.yaml").write_text("file: network.onnx\nresize: 9\n")
    with pytest.raises(DiagnosticError, match=r"failed on images \[64, 3, 9, 9\]"):
        extractor_from_text("large.yaml")(pictures)  # type: ignore[operator]
