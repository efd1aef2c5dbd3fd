"""Kedro's view of the work: `pipeline.py` wires, `nodes.py` loads, calls the library, shapes.

Nodes import the library when they run, so that a stage pays for no import it does not need.
"""
