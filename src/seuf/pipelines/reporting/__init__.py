"""Compare the methods of the study."""

from seuf.pipelines.reporting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
