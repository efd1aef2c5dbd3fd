"""What was made from what: DVC's stages from Kedro's pipelines.

Begin at `stages`, which tells what a stage depends on and why.
"""
