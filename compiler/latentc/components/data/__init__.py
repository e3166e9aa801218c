"""Data sets: where training samples come from, and which fields a sample has."""
