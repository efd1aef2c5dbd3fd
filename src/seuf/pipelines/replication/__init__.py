"""Run every method with several seeds on several base models, and tell the spread."""

from seuf.pipelines.replication.pipeline import create_pipeline

__all__ = ["create_pipeline"]
