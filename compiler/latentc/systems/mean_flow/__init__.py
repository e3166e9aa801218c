"""Mean Flows for One-step Generative Modeling (Geng et al. 2025, arXiv:2505.13447).

The network learns the average velocity over a span of time, by a derivative along the trajectory; its
U-Net embeds time and span together.

Specs: specs/digits/digits_mean_flow.yaml, specs/flow/mean_flow.yaml, specs/flow/mean_flow_cifar10.yaml.
Tests: tests/systems/mean_flow, tests/emit/test_derivatives.py, tests/emit/test_train_failures.py,
tests/parity/py_meanflow.py, tests/test_augment.py.
Rows in docs/systems.yaml: mean_flow_cifar10, mean_flow.
"""

COMPONENTS = {
    "networks": {"span_unet": "span_unet"},
    "objectives": {"mean_flow": "mean_flow"},
}
