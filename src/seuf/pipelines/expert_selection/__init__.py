"""Choose experts by every rule of the study."""

from seuf.pipelines.expert_selection.pipeline import create_pipeline

__all__ = ["create_pipeline"]
