"""Folders laid out as repositories of the Hugging Face hub, with a few made-up rows."""
