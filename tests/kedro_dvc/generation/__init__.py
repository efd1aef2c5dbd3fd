"""dvc.yaml, made from the Kedro project."""
