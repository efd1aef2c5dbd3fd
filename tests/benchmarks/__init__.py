"""Tests of the benchmarks and of scoring."""
