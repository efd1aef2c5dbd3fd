"""dvc.yaml from the Kedro project."""
