"""Come by the model that knowledge is taken out of."""

from seuf.pipelines.base_model.pipeline import create_pipeline

__all__ = ["create_pipeline"]
