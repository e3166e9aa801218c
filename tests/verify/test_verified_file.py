"""The run that docs/verified.json comes from: what it says of systems, and of an engine that crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import verified


def test_a_small_system_passes() -> None:
    pytest.importorskip("torch")
    notes: dict[str, Any] = {}
    verified.parts("sd_vae", notes.update, {f"openvino, {form}": "known" for form in verified.FORMS})
    assert notes and set(notes.values()) == {verified.PASSES}
    assert set(notes) == {"training", *(f"onnxruntime, {form}" for form in verified.FORMS)}


def test_a_crash_ends_one_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(name: str, note: Callable[[dict[str, Any]], None], known: Mapping[str, str]) -> None:
        for place in ("training", "onnxruntime, loop", "openvino, host", "openvino, unroll"):
            if place in known:
                continue
            note({place: None})
            if place == "openvino, host":
                os.kill(os.getpid(), signal.SIGKILL)
            note({place: verified.PASSES})

    monkeypatch.setattr(verified, "parts", parts)
    entry = verified.verified("uvit")
    assert entry["forms"] == {
        "onnxruntime": {"loop": "passes"},
        "openvino": {"host": "ends with signal 9", "unroll": "passes"},
    }
    assert verified.failures(entry) == ["openvino, host: ends with signal 9"]


def test_what_was_not_run_is_no_failure() -> None:
    forms = {"openvino": {"loop": "passes", "unroll": "not run: 64 evaluations"}}
    assert verified.failures({"training": "passes", "forms": forms}) == []
    assert verified.failures({"training": "loss at loss, PyTorch: error 1.0e-02, tolerance 1.0e-05"})
