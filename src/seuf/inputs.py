"""The one exception type whose message alone is shown to the user.

What all settings have in common.
"""

from pydantic import BaseModel, ConfigDict


class InputError(ValueError):
    """Something the user gave (a file, a setting, a model) cannot be used; the message says why."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
