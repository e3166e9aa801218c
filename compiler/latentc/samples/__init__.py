"""Sample sets: many samples drawn in chunks and written as a stream, with their seeds and conditions, and read back.

`job` says what is drawn and draws it; `sets` writes and reads; one module per format. Sample i has seed SEED + i,
whatever the chunk size, the number of workers or the number of interruptions.
"""
