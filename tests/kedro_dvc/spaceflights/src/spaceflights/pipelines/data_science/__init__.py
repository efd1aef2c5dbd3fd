"""Predict the price of a flight."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
