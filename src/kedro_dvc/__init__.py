"""Kedro and DVC as one: DVC's stages made from Kedro's pipelines, and run from there.

The package knows nothing of what the pipelines do and imports nothing of the project that uses it:
docs/kedro-dvc.md says how to use it in another one. Begin reading at `stages`, which says what a
stage depends on and why.
"""
