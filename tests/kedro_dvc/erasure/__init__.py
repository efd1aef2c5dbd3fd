"""Bytes that go while their hashes stay."""
