"""Columns of the tables."""

PRICE = "price"
