"""Kedro data sets: those of kedro-datasets made atomic, and our own for records and models.

The catalog names each by its module, so that a stage imports only what it reads and writes.
"""
