"""Kedro's pipelines: `pipeline.py` wires nodes, `nodes.py` calls the library for each.

Nodes import the library when they run, so that a stage does not wait for imports it does not need.
"""
