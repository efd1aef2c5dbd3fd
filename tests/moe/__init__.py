"""Tests of what a Mixture-of-Experts model is."""
