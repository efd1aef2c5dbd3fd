"""Clean the tables and join them."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
