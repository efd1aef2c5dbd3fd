"""Tell what will be used before anything is trained, and stop on what cannot work."""

from seuf.pipelines.preflight.pipeline import create_pipeline

__all__ = ["create_pipeline"]
