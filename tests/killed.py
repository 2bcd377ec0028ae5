"""What runs in a fork (tests/forks.py): a whole stage, as `python -m` runs it, killed, out of room or sabotaged at a named call."""

import importlib
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

OPTIMIZER = "torch.optim.adamw:AdamW.step"
ROW = "stages.lib.training.journal:Journal.row"
SAVE = "stages.lib.training.checkpoint:Keeper.save"
WRITE = "stages.lib.training.checkpoint:_Hashing.write"
RENAMED = "stages.lib.core.files:flush_folder"
VALIDATE = "stages.lib.training.classifier:validate"
PICTURE = "stages.lib.training.journal:Journal.picture"
EMA = "stages.lib.training.ema:Ema.load_state_dict"
LOAD = "stages.lib.training.loop:Trained.load"


def stage(module: str, arguments: list[str], kill_at: list[Any] | None = None, sabotage: str | None = None) -> None:
    """`python -m <module> <arguments>`.

    kill_at: (name, number): SIGKILL from within, as that call of a function begins; (name, number, bytes): no file may become
    larger from there on, as on a disk that is full. sabotage: "skip" or "late", and a name: a
    function that then does nothing, or a resume that takes its state for one step later.
    """
    if kill_at:
        name, number, *room = kill_at
        _replace(name, lambda call: _fatal(call, number, *room))
    if sabotage:
        what, _, name = sabotage.partition(" ")
        _replace(name, {"skip": _idle, "late": _late}[what])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _replace(name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put a wrapped function in the place of module:Class.function or module:function."""
    module, _, path = name.partition(":")
    place: Any = importlib.import_module(module)
    *owners, last = path.split(".")
    for owner in owners:
        place = getattr(place, owner)
    setattr(place, last, wrap(getattr(place, last)))


def _fatal(call: Callable[..., Any], number: int, room: int | None = None) -> Callable[..., Any]:
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and room is None:
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == number and room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        return call(*arguments, **named)

    return counted


def _idle(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_, **__: None


def _late(call: Callable[..., Any]) -> Callable[..., Any]:
    def shifted(trained: Any, state: dict[str, Any]) -> Any:
        return call(trained, {**state, "step": state["step"] + 1})

    return shifted
