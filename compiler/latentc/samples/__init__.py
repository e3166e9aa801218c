"""Sample sets: many samples drawn in chunks and written as a stream, with their seeds and conditions, and read back.

`job` says what is drawn and draws it; `sets` writes and reads; one module per format. Sample i has seed SEED + i,
whatever the chunk size, the number of workers or the number of interruptions.
"""

from latentc.samples.job import Executor, Job, Worker, in_process, ordered
from latentc.samples.sets import FORMATS, Samples, SampleSet, open_set, write

__all__ = [
    "FORMATS",
    "Executor",
    "Job",
    "SampleSet",
    "Samples",
    "Worker",
    "in_process",
    "open_set",
    "ordered",
    "write",
]
