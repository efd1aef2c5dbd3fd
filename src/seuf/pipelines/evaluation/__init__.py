"""Score every unlearned model on the test questions."""

from seuf.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
