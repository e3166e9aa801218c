"""Module and weights → bundle: ONNX written from the IR, weights by file range.

Read in this order: `onnx` (flat module to model, with the table of `lowerings`), `host` (a sampler cut at its loops),
`forms` (which of the three forms), `store` (where weights lie), `bundle` (all of it into a folder).
"""
