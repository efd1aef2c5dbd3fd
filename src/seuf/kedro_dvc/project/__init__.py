"""The Kedro project as it is written down: studies, their configuration, the code they can run."""
