"""Tests of what joins Kedro and DVC."""
