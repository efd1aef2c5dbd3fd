"""What is forgotten and what must stay: one file a benchmark, and how answers are scored.

Begin at `records`: every benchmark gives texts to forget, texts to keep, and questions. `registry`
lists the benchmarks.
"""
