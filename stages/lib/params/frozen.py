"""The base of every schema: frozen, strict, an unknown key is an error."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """A block of params.yaml. Strict: a quoted number is a string, `true` is no 1; NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
