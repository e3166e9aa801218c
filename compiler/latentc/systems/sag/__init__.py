"""SAG: Improving Sample Quality of Diffusion Models Using Self-Attention Guidance (Hong et al. 2023, arXiv:2210.00939).

Guidance away from a prediction at a state that is blurred, everywhere or where the network attends.

Specs: specs/digits/digits_dit.yaml.
Tests: tests/samplers/test_guidance_techniques.py.
Rows in docs/systems.yaml: SAG (self-attention guidance), Blur guidance.
"""

COMPONENTS = {
    "guidance": {"blur": "blur", "self_attention": "self_attention"},
}
