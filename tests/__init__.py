"""Tests; the folders mirror src/seuf."""
