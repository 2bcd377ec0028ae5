"""A teacher somebody else trained: the very file whose sha256 was named in advance, and what its own config says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import list_models
from torch import Tensor, nn

from stages.lib.core import content, files
from stages.lib.core.outcome import Refusal
from stages.lib.models import folder, tensors
from stages.lib.params.teacher import HUB_NAME, REMOTE, Teacher

PREPARED = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class Origin:
    """Where weights are, and what is known about them."""

    path: Path
    prepared: Mapping[str, Any]
    """mean, std, interpolation, crop_pct, crop_mode as far as the source's own config says; empty where it has none."""
    names: tuple[str, ...]
    """Its classes, index = label; empty where it does not name them."""


def remote(source: str) -> bool:
    """Whether the file has to be fetched first."""
    return bool(REMOTE.fullmatch(source) or HUB_NAME.fullmatch(source))


def origin(cfg: Teacher, raw_root: Path) -> Origin:
    """The file `teacher.source` names, its digest proven. Raises Refusal: not there, another file, no such name in timm."""
    assert cfg.sha256 is not None
    if remote(cfg.source):
        kept = content.find(cfg.sha256)
        if kept is None:
            raise Refusal(
                f"teacher.source {cfg.source} has not been fetched: `python -m stages.fetch {cfg.source} {cfg.sha256}`"
            )
        return Origin(kept, published_config(cfg.source), ())
    path = raw_root / cfg.source
    if not path.is_file():
        raise Refusal(
            f"teacher.source {path} is not there. Put the file there, name a remote one, or set teacher.source: train."
        )
    found = files.sha256(path)
    if not found.startswith(cfg.sha256):
        raise Refusal(
            f"{path} has sha256 {found}, but teacher.sha256 is {cfg.sha256}. It is another file or a damaged one: fetch it "
            "again, or write its sha256 if you trust it."
        )
    return beside(path)


def published_config(source: str) -> dict[str, Any]:
    """The preprocessing timm has registered for a name on its hub; {} for other places. Raises Refusal for an unknown name."""
    hub = HUB_NAME.fullmatch(source)
    if not hub:
        return {}
    name = source.removeprefix("timm/")
    known = list_models(f"{hub['architecture']}.*", pretrained=True)
    if name not in known:
        raise Refusal(
            f"teacher.source {source}: timm {timm.__version__} knows no weights {name}, only {', '.join(known) or 'none'}."
        )
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    return _prepared(config.to_dict())


def beside(path: Path) -> Origin:
    """A local file, with the config.json that lies beside a model.safetensors. Raises Refusal if that is damaged."""
    if path.name != folder.WEIGHTS or not (path.parent / folder.CONFIG).is_file():
        return Origin(path, {}, ())
    config = folder.config_of(path.parent)
    return Origin(path, _prepared(config["pretrained_cfg"]), tuple(config.get("label_names", ())))


def _prepared(pretrained: Mapping[str, Any]) -> dict[str, Any]:
    return {key: pretrained[key] for key in PREPARED if pretrained.get(key) is not None}


def load(network: nn.Module, found: Origin, classes: Sequence[str], how: str) -> None:
    """Load the file's tensors into `network` strictly; how: `teacher.classes`. Raises Refusal: other tensors or classes."""
    state, own = tensors.read(found.path), network.state_dict()
    if rows := rows_by_name(found.names, classes, how):
        state = picked(state, f"{network.default_cfg['classifier']}.", rows, len(found.names))  # type: ignore[index]
    wrong = [f"{name} is missing" for name in own if name not in state and not name.endswith("num_batches_tracked")]
    wrong += [f"{name} is not known" for name in state if name not in own]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if wrong:
        raise Refusal(
            f"{found.path} does not fit teacher.architecture, its sizes and the {len(classes)} classes of this set: "
            f"{'; '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if wrong[3:] else ''}."
        )
    network.load_state_dict({**own, **state})


def rows_by_name(theirs: Sequence[str], ours: Sequence[str], how: str) -> list[int]:
    """Their index of each of our classes, [] where nothing has to be moved. Raises Refusal where the classes do not match."""
    if how == "same":
        if theirs and list(theirs) != list(ours):
            raise Refusal(
                f"the weights are for {len(theirs)} classes ({_some(theirs)}), this set has {len(ours)} ({_some(ours)}), and they "
                "are not the same in the same order. teacher.classes: by-name takes ours out of theirs."
            )
        return []
    if not theirs:
        raise Refusal(
            "teacher.classes: by-name needs weights that name their classes: a model.safetensors with a config.json beside it "
            "whose label_names has one for each. If they are this set's classes in its order, set teacher.classes: same."
        )
    if missing := [name for name in ours if name not in theirs]:
        raise Refusal(
            f"the weights know {len(theirs)} classes ({_some(theirs)}), but not {_some(missing)} of this set."
        )
    if len(set(theirs)) < len(theirs):
        raise Refusal(
            "the weights name a class twice, so that a name says nothing; teacher.classes: by-name cannot be used."
        )
    return [list(theirs).index(name) for name in ours]


def picked(state: Mapping[str, Tensor], classifier: str, rows: list[int], named: int) -> dict[str, Tensor]:
    """The state with these rows of the classifier's tensors, in this order. Raises Refusal unless it has `named` rows."""
    for name, tensor in state.items():
        if name.startswith(classifier) and len(tensor) != named:
            raise Refusal(
                f"{name} of the weights has {len(tensor)} rows, but the config.json beside names {named} classes."
            )
    return {name: tensor[rows] if name.startswith(classifier) else tensor for name, tensor in state.items()}


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
