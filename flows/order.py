"""What a coordinator asks of a worker: one stage, at one commit, after stages that others may have run."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class Order(BaseModel):
    """The parameters of a run of the flow `stage`; written by flows/across.py, read by flows/stage.py."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="The stage, as `dvc repro` takes it.")
    commit: str = Field(description="Full sha of the commit every worker of the run works at.")
    params: str = Field(description="The text of params.yaml.")
    lock: dict[str, Any] = Field(
        description="Entries of dvc.lock: the stage's own, and what the stages before it made."
    )
    recipe: str = Field(description="The key the new entry goes back under.")
    inputs: list[str] = Field(description="Outs of other stages that it reads, pulled from DVC's remote.")
    gpus: int | None = Field(description="GPUs it may use, 0: all of the host's; null: it uses none.")
    limit_seconds: float = Field(description="Stop it after so long; 0: never.")
    coordinator: UUID | None = Field(
        None, description="The flow run that waits for it. When that has ended, so does this."
    )
