"""Kedro and DVC as one: DVC's stages made from Kedro's pipelines, and run from there.

Knows nothing of what the pipelines do, and imports nothing of this project: it could be a package
of its own. Begin at `generation.stages`, which tells what a stage depends on and why.
"""
