"""What a coordinator asks of a worker: one stage, at one commit, after stages that others may have run."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from flows.graph import Stage


class Order(BaseModel):
    """The parameters of a run of the flow `stage`; written by flows/across.py, read by flows/stage.py."""

    model_config = ConfigDict(extra="forbid")

    stage: Stage = Field(description="The stage, and which outs of other stages it is to pull.")
    commit: str = Field(description="Full sha of the commit every worker of the run works at.")
    params: str = Field(description="The text of params.yaml.")
    lock: dict[str, Any] = Field(
        description="Entries of dvc.lock: the stage's own, and what the stages before it made."
    )
    recipe: str = Field(description="The key the new entry goes back under.")
    gpus: int = Field(description="GPUs it may use; 0: all of the host's.")
    limit_seconds: float = Field(description="Stop it after so long; 0: never.")
    coordinator: UUID | None = Field(
        None, description="The flow run that waits for it. When that has ended, so does this."
    )
