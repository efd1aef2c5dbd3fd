"""Delete bytes, keep hashes."""
