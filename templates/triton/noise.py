"""The engine's inputs from a request: all noise is made here, by the seed of each sample alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # latentc_runtime and served.py are in the same folder

import numpy as np
import served


class TritonPythonModel:
    """Triton's interface: one instance serves all requests of a batch."""

    def initialize(self, args: dict[str, str]) -> None:
        served.check_numpy()
        self.manifest = served.manifest_beside(__file__)
        self.entry = served.program_of(self.manifest, json.loads(args["model_config"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        return served.each(requests, self.answer)

    def answer(self, request: Any) -> dict[str, np.ndarray]:
        asked = served.asked(request, self.manifest, self.entry)
        made = {}
        for entry in self.entry.inputs:
            array = asked.array(entry)
            # Triton batches along the first axis: [B, ...], scalars [B, 1], rows of noise [N, B, ...] as [B, N, ...].
            if entry.rows is not None:
                array = np.moveaxis(array, 1, 0)
            made[entry.name] = array
        return made
