"""A whole sampler: the requests of a batch are sampled in one run and given back one by one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # latentc_runtime and served.py are in the same folder

import numpy as np
import served

import latentc_runtime
from latentc_runtime.media import images
from latentc_runtime.request import Request
from latentc_runtime.sources import joined


class TritonPythonModel:
    """Triton's interface: one instance serves all requests of a batch."""

    def initialize(self, args: dict[str, str]) -> None:
        served.check_numpy()
        on_gpu = "GPU" in args["model_instance_kind"]
        if on_gpu:  # each instance is a process: its GPU is the only one it sees
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        config = json.loads(args["model_config"])
        threads = config["parameters"].get("threads")
        self.pipe = latentc_runtime.load(
            Path(__file__).parent / "bundle",
            device="auto" if on_gpu else "cpu",
            threads=int(threads["string_value"]) if threads else None,
        )
        self.entry = served.program_of(self.pipe.manifest, config)
        self.pipe.open_engines(self.entry.steps, self.entry.name)
        self.wants_images = any(output["name"] == "images" for output in config["output"])

    def execute(self, requests: list[Any]) -> list[Any]:
        asked: list[Any] = []
        for request in requests:
            try:
                asked.append(served.asked(request, self.pipe.manifest, self.entry))
            except latentc_runtime.BundleError as error:
                asked.append(error)
        good = [one for one in asked if not isinstance(one, latentc_runtime.BundleError)]
        try:
            samples = self.sample(good)
        except latentc_runtime.BundleError as error:
            return [served.refusal(one if isinstance(one, latentc_runtime.BundleError) else error) for one in asked]
        return [self.answer(one, samples) for one in asked]

    def sample(self, asked: list[Request]) -> Iterator[dict[str, np.ndarray]]:
        """Each request's outputs, made in one run: a sample does not depend on its neighbours."""
        if not asked:
            return iter(())
        outputs = self.pipe.run(Request(self.entry, joined([one.given for one in asked])))
        ends = np.cumsum([len(one) for one in asked])[:-1]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return ({name: arrays[i] for name, arrays in parts.items()} for i in range(len(asked)))

    def answer(self, one: Any, samples: Any) -> Any:
        if isinstance(one, latentc_runtime.BundleError):
            return served.refusal(one)
        outputs = next(samples)
        first = outputs[self.entry.outputs[0].name]
        try:
            pictures = {"images": images(first, self.entry.outputs[0].output)} if self.wants_images else {}
        except latentc_runtime.BundleError as error:
            return served.refusal(error)
        return served.response({**outputs, **pictures})
