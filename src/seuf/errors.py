"""The one exception type whose message alone is shown to the user."""


class InputError(ValueError):
    """Something the user gave (a file, a setting, a model) cannot be used; the message says why."""
