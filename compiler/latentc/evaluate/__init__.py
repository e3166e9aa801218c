"""How good samples are: metrics, the features they compare, reference statistics and the report.

`metrics/` and `extractors/` are registries: one file each.
"""
