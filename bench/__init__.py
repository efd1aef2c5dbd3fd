"""How fast and how large: each measurement beside plain transformers in the same run.

`python -m bench --help` lists them. Models have the shape of published ones and random weights.
"""
