"""Where the stages of a run are run: each file here is an `Executor` (`jobs.py`)."""
