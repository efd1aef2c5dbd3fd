"""The base of all settings, and the one exception that the user sees as its message alone."""

from pydantic import BaseModel, ConfigDict


class InputError(ValueError):
    """A file, a setting or a model from the user cannot be used; the message says why."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
