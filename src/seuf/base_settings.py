"""What all settings have in common."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
