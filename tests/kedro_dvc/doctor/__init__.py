"""What DVC believes though it is not so."""
