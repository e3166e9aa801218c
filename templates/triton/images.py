"""Samples as pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # latentc_runtime and served.py are in the same folder

import numpy as np
import served

from latentc_runtime.media import images


class TritonPythonModel:
    """Triton's interface: one instance serves all requests of a batch."""

    def initialize(self, args: dict[str, str]) -> None:
        served.check_numpy()
        program = served.program_of(served.manifest_beside(__file__), json.loads(args["model_config"]))
        self.output = program.outputs[0].output

    def execute(self, requests: list[Any]) -> list[Any]:
        return served.each(requests, self.answer)

    def answer(self, request: Any) -> dict[str, np.ndarray]:
        return {"images": images(served.array_of(request, "samples"), self.output)}
