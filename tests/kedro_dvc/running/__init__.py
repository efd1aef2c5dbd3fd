"""Stages while they run."""
