"""New or changed raw data: look at it, ingest it, hold it against the data gates, and nothing more.

    when   on a schedule, or on the event tutelage.raw-data.arrived, whose resource is tutelage.raw-data.<set>
    now    python -m flows.refresh [<set>]

A gate that stays shut fails the run, tells people (options.notify, the event tutelage.gate.failed), and shows the rows in its
artifact.
"""

import sys

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows import pipeline, workspace
from flows.pipeline import DEFAULTS, Options

RESOURCE = "tutelage.raw-data."
GATES = ("validate-manifest", "validate-shards")


def _run_name() -> str:
    return str(flow_run.parameters.get("source") or "every set").removeprefix(RESOURCE)


@flow(name="refresh", flow_run_name=_run_name)
def refresh(source: str = "", across: bool = False, options: Options = DEFAULTS) -> State[None]:
    """Scan, ingest and shard what changed, through the gates of manifest and shards. Training stages are left alone.

    source: a set of params.yaml, alone or as `tutelage.raw-data.<set>`; empty: every set.
    """
    return pipeline.run(workspace.ROOT, gates_of(source), across, options)


def gates_of(source: str) -> list[str]:
    """The stages that a refresh runs, with all before them."""
    name = source.removeprefix(RESOURCE)
    return [f"{gate}@{name}" if name else gate for gate in GATES]


if __name__ == "__main__":
    refresh(source=sys.argv[1] if sys.argv[1:] else "")
