"""DiT in diffusers: State-of-the-art diffusion models (von Platen et al. 2022, github.com/huggingface/diffusers).

In its `DiTTransformer2DModel` every block embeds timestep and class by weights of its own; the output norm uses those
of the first. Pipelines converted from the authors' weights hold copies of one embedder, which is `dit`; those trained
in diffusers hold different ones.

Specs: specs/diffusion/diffusers_dit.yaml.
Tests: tests/systems/diffusers_dit, tests/interchange/test_own_embedders.py.
Rows in docs/systems.yaml: diffusers_dit.
"""

COMPONENTS = {"networks": {"diffusers_dit": "diffusers_dit"}}
