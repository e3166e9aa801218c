"""A whole sampler: the requests of a batch are sampled in one run and given back one by one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # latentc_runtime and served.py lie beside this file

import numpy as np
import served

import latentc_runtime


class TritonPythonModel:
    """Triton's interface: one instance serves all requests of a batch."""

    def initialize(self, args: dict[str, str]) -> None:
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
        self.entry = served.sampler_of(self.pipe.manifest, config)
        self.pipe.open_engines(self.entry.steps)
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

    def sample(self, asked: list[Any]) -> Any:
        """An iterator over each request's samples, drawn in one run: a sample does not depend on its neighbours."""
        if not asked:
            return iter(())
        names = ["classes", "seeds"]
        names += [name for name in ("guidance", "truncation") if getattr(self.entry, name) is not None]
        given = {name: np.concatenate([getattr(one, name) for one in asked]) for name in names}
        samples = self.pipe.sample(**given, steps=self.entry.steps)
        ends = np.cumsum([len(one.classes) for one in asked])
        return iter(np.split(samples, ends[:-1]))

    def answer(self, one: Any, samples: Any) -> Any:
        if isinstance(one, latentc_runtime.BundleError):
            return served.refusal(one)
        part = next(samples)
        try:
            pictures = {"images": self.pipe.images(part)} if self.wants_images else {}
        except latentc_runtime.BundleError as error:
            return served.refusal(error)
        return served.response({"samples": part, **pictures})
