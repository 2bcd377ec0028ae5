"""What the page is about: the models and sets that params.yaml names, with whatever their stages have written so far."""

from dataclasses import dataclass

from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting.inputs import Folder, History, Record
from stages.lib.reporting.sources import Ledger

TRAINED = {"teacher": "Teacher", "mae": "MAE", "student": "Student", "finetuned": "Fine-tuned"}


@dataclass(frozen=True)
class Model:
    """A model of the pipeline; metrics or history are None where no stage has written them."""

    name: str
    title: str
    colour: str
    metrics: Record | None
    history: History | None


@dataclass(frozen=True)
class Material:
    """Everything the sections draw on."""

    report: Report
    sets: Sets
    folder: Folder
    ledger: Ledger
    models: dict[str, Model]
    gates: dict[str, Record | None]
    stored: dict[str, Record | None]
    """By set: what its shards cost and lost."""

    def all_sets(self) -> list[str]:
        """The main set, then the transfer sets."""
        return [self.sets.main, *self.sets.transfer]

    def trained(self) -> list[Model]:
        """The models trained on the main set, in the order of the pipeline."""
        return [self.models[name] for name in TRAINED]

    def transferred(self) -> list[Model]:
        """A model for each transfer set."""
        return [self.models[f"transfer-{name}"] for name in self.sets.transfer]

    def measured(self) -> list[tuple[Model, Record]]:
        """The models that have metrics."""
        return [(model, model.metrics) for model in self.models.values() if model.metrics]


def gather(report: Report, sets: Sets, folder: Folder) -> Material:
    """Read metrics, histories and gate details. Raises Refusal at a damaged file."""
    models = [_model(folder, name, title, name) for name, title in TRAINED.items()]
    models += [_model(folder, f"transfer-{name}", f"Transfer to {name}", "transfer") for name in sets.transfer]
    names = [f"{kind}-{name}" for name in [sets.main, *sets.transfer] for kind in ("manifest", "shards")]
    gates = {
        name: folder.record(f"gate-details/{name}.json") for name in [*names, *(f"model-{one}" for one in TRAINED)]
    }
    stored = {name: folder.record(f"stored/{name}.json") for name in [sets.main, *sets.transfer]}
    return Material(report, sets, folder, Ledger(), {model.name: model for model in models}, gates, stored)


def _model(folder: Folder, name: str, title: str, colour: str) -> Model:
    return Model(name, title, colour, folder.metrics(name), folder.history(name))
