"""Tests of Algorithm 1."""
