"""Compare the methods of the study: numbers, figures, one page for people."""

from seuf.pipelines.reporting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
