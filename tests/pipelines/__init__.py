"""Tests of the wiring and the parameters."""
