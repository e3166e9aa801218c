"""First stages: what encodes images as the latents or tokens that a network models, and decodes them."""
