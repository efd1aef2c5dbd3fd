"""Unlearn with every method of the study, each in a namespace of its own."""

from seuf.pipelines.unlearning.pipeline import create_pipeline

__all__ = ["create_pipeline"]
