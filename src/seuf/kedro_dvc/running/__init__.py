"""Stages while they run: in one process, seen, safe."""
