"""Score every unlearned model on the questions that chose nothing."""

from seuf.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
