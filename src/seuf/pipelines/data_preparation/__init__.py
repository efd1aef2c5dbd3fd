"""Prepare what is forgotten, what must stay, and the questions about both."""

from seuf.pipelines.data_preparation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
