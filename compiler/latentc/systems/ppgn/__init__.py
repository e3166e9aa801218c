"""Plug & Play Generative Networks: Conditional Iterative Generation of Images in Latent Space (Nguyen et al. 2017,
arXiv:1612.00005).

Steps on the code of an autoencoder, towards codes that it reconstructs and images that a classifier recognises.

Specs: specs/digits/digits_ppgn.yaml.
Tests: tests/systems/ppgn.
Row in docs/systems.yaml: PPGN (steps on the codes of an autoencoder).
"""

COMPONENTS = {"samplers": {"latent_ppgn": "latent_ppgn"}}
