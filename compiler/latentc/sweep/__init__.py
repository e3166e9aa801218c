"""Many settings of one spec: each trained, compiled and judged; the best written out as a spec."""
