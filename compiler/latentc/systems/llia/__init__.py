"""LLIA: Low-Latency Interactive Avatars (Yu et al. 2025, arXiv:2506.05806).

Video of a portrait that follows audio, in a state (speaking, listening, idle) that is the class: clips of any length,
each after the last frames of the one before, distilled into a consistency model that needs few steps.

Specs: specs/diffusion/llia.yaml, specs/digits/digits_llia.yaml, specs/digits/digits_llia_consistency.yaml.
Tests: tests/systems/llia.
Rows in docs/systems.yaml: llia.
"""

BASES = ("consistency",)

COMPONENTS = {
    "networks": {"avatar_unet": "avatar_unet"},
    "conditions": {"clip_length": "clip_length"},
    "objectives": {"clip_diffusion": "clip_diffusion", "clip_consistency": "clip_consistency"},
}
