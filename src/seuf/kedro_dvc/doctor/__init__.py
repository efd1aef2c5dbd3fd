"""What DVC believes of a project though it is not so."""
