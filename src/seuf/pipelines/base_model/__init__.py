"""Make or load the base model, from which knowledge is removed."""

from seuf.pipelines.base_model.pipeline import create_pipeline

__all__ = ["create_pipeline"]
