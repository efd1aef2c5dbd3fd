"""Tests of stages and dvc.yaml."""
