"""Tests of the Kedro data sets."""
