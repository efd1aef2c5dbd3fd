"""Choose the layer of each method that asks for it by short trials in every layer."""

from seuf.pipelines.layer_choice.pipeline import create_pipeline

__all__ = ["create_pipeline"]
