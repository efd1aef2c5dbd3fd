"""Choose the layer of each pilot by short trials in every layer."""

from seuf.pipelines.layer_choice.pipeline import create_pipeline

__all__ = ["create_pipeline"]
