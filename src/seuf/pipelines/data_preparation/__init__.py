"""Prepare the forget set, the retain set, and the questions about both."""

from seuf.pipelines.data_preparation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
