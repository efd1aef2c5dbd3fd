"""Studies, their configuration, and the code they can run."""
