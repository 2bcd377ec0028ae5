"""A clone of this repository in which small stand-ins take the places of the flows, so that what surrounds them can be tested.

They have the deployments' parameters, say where they run, and make every kind of artifact. None trains anything.
"""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

PIPELINE = '''
"""A stand-in."""

import os
import pathlib
import subprocess
import time

from prefect import flow, task

from flows import service

children = []


@task(task_run_name="{name}")
def one(name: str, seconds: float) -> str:
    """Writes where and as what it runs, and waits in a child, as a stage does."""
    child = subprocess.Popen(["sleep", str(seconds)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children.append(child)
    pathlib.Path(os.environ["TUTELAGE_TOLD"]).write_text(f"{os.getcwd()}\\n{__file__}\\n{os.getpid()}\\n{child.pid}\\n")
    child.wait()
    return os.getcwd()


@flow
def pipeline(targets: list[str] = [], across: bool = False, force: bool = False, seconds: float = 0.0) -> str:
    """The whole pipeline."""
    service.end_with_worker()
    future = one.submit("one", seconds)
    try:
        return future.result()
    except BaseException:  # a task's thread can't be interrupted: its child is ended here, in the main thread, as the flows do
        for child in children:
            child.terminate()
        raise
'''

STAGE = '''
"""A stand-in."""

import os
import pathlib
import time

from prefect import flow

import stages.lib.params.system


@flow(flow_run_name="{name}")
def stage(name: str = "check", seconds: float = 0.0) -> str:
    """One stage; writes into a file of its own where it ran."""
    folder = pathlib.Path(os.environ["TUTELAGE_TOLD"])
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"{os.getcwd()}\\n{__file__}\\n{stages.lib.params.system.__file__}\\n")
    time.sleep(seconds)
    return os.getcwd()
'''

REFRESH = '''
"""A stand-in."""

from prefect import flow


@flow
def refresh() -> str:
    """New or changed raw data."""
    return "nothing new"
'''

EXPERIMENT = '''
"""A stand-in with the form's kinds of fields."""

import base64
import io
from typing import Annotated, Literal

from PIL import Image
from prefect import flow
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
)
from pydantic import BaseModel, ConfigDict, Field

Alpha = Annotated[float, Field(ge=0, le=1)]


class Vary(BaseModel):
    """What to change; several values make a grid. An empty list leaves params.yaml's value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distill: Literal["none", "soft", "hard"] | None = Field(None, description="One word: which distillation")
    kinds: list[Literal["none", "soft", "hard"]] = Field(default=[], description="Several words: which distillations")
    alpha: list[Alpha] = Field(default=[], description="Weight of the teacher, 0 to 1")
    tau: Annotated[float, Field(gt=0, le=20, description="Temperature of the soft labels")] = 3.0
    epochs: Annotated[int, Field(ge=1, le=1000, description="Epochs of train")] = 2
    seeds: list[int] = Field(default=[0], description="One run for each")
    model: Literal["deit-tiny", "deit-small"] = Field("deit-tiny", description="The student")
    init: Literal["scratch", "mae"] = "scratch"


def picture(side: int) -> str:
    """A data URI of a PNG of side x side pixels."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@flow
def experiment(name: str, vary: Vary = Vary(), notes: str = "") -> str:
    """Change a few words and compare."""
    create_table_artifact(key="comparison", table=[{"distill": vary.distill, "top1": 0.75, "seed": s} for s in vary.seeds])
    create_image_artifact(key="picture-data-uri", image_url=picture(256), description="a data URI")
    create_markdown_artifact(key="picture-markdown", markdown=f"## Samples\\n\\n![samples]({picture(256)})\\n\\nbelow the picture")
    create_progress_artifact(progress=73.0, key="progress", description="epoch 3 of 4, 12 min left")
    create_link_artifact(key="report", link="http://127.0.0.1:1/index.html", link_text="The report")
    return str(vary.distill)
'''

FLOWS = {"pipeline": PIPELINE, "stage": STAGE, "refresh": REFRESH, "experiment": EXPERIMENT}


def clone(folder: Path, source: Path = ROOT) -> Path:
    """A clone of `source` as it lies there (what git does not know too), with the stand-ins committed and this .venv."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=source,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0")[:-1]:
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, folder / name)
    for name, text in FLOWS.items():
        (folder / "flows" / f"{name}.py").write_text(text.lstrip())
    (folder / ".venv").symlink_to(source / ".venv")
    for command in (
        ["init", "--quiet"],
        ["config", "user.name", "Test"],
        ["config", "user.email", "test@localhost"],
        ["add", "."],
        ["commit", "--quiet", "--message", "stand-ins"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder
