"""Record how the base model routes the texts to forget and those to keep."""

from seuf.pipelines.routing_capture.pipeline import create_pipeline

__all__ = ["create_pipeline"]
