"""Tests of whole studies, run as a user runs them."""
