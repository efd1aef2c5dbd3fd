"""Clean the tables and join them."""

from kedro.pipeline import Node, Pipeline

from .nodes import create_model_input_table, preprocess_companies


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                preprocess_companies,
                "companies",
                "preprocessed_companies",
                name="preprocess_companies",
            ),
            Node(
                create_model_input_table,
                ["shuttles", "preprocessed_companies", "params:data_processing.least_rating"],
                "model_input_table",
                name="create_model_input_table",
            ),
        ]
    )
