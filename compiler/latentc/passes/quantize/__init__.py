"""Quantisation of layers to 8 or 4 bits. `plan` says which layers, `forms` how a layer is rewritten per engine."""
