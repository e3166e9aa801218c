"""PPAP: Towards Practical Plug-and-Play Diffusion Models (Go et al. 2022, arXiv:2212.05973).

Experts for ranges of noise, distilled from classifiers or depth estimators, guide a diffusion model; of an expert,
adapters of low rank are trained, and batch norms.

Specs: specs/diffusion/ppap.yaml, specs/diffusion/ppap_depth.yaml, specs/diffusion/ppap_expert.yaml,
specs/diffusion/ppap_expert_deit.yaml, specs/diffusion/ppap_expert_depth.yaml.
Tests: tests/systems/ppap, tests/parity/ppap.py.
Rows in docs/systems.yaml: ppap, ppap_expert, ppap_expert_depth, ppap_depth, ppap_expert_deit.
"""

COMPONENTS = {
    "blocks/mixers": {"adapted_attention": "adapted_attention"},
    "guidance": {"classifier_experts": "experts", "score_experts": "experts"},
    "guidance/scores": {"prediction": "prediction"},
    "networks": {
        "adapted_resnet": "adapted_resnet",
        "map_predictor": "map_predictor",
        "vision_classifier": "vision_classifier",
    },
    "objectives": {"noisy_distillation": "noisy_distillation"},
}
