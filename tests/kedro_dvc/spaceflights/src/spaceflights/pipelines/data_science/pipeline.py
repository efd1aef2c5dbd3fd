"""Predict the price of a flight."""

from kedro.pipeline import Node, Pipeline

from .nodes import fit_prices


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                fit_prices,
                ["model_input_table", "params:model_options"],
                "metrics",
                name="fit_prices",
            )
        ]
    )
