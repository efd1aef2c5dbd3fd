"""Prove what was changed, from what, for whom, and that nothing else was."""
