"""What a training saves, so that a killed one goes on to the same weights, bit for bit."""

from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import Field, TypeAdapter
from torch import nn

from tlmtool.data.state import Store
from tlmtool.decompositions import from_dict
from tlmtool.failure import Failure, NotLoadable
from tlmtool.files.kept import Kept
from tlmtool.training.expansion import Expansion
from tlmtool.training.importance import Scores
from tlmtool.training.optimizing import Optimizer
from tlmtool.training.outcome import Outcome
from tlmtool.training.sharding import gather, scatter

LIVE = ("expansions", "unread")  # of an outcome, which are kept otherwise or not at all


class Resumable(Protocol):
    """What a training shows of itself, so that it can be saved and restored.

    `live`: what holds the parameters that are trained, the model itself or its shards. `waiting`:
    expansions that no step has taken up yet. `world`: the number of processes.
    """

    model: nn.Module
    live: nn.Module
    accelerator: Accelerator
    store: Store
    optimizer: Optimizer
    scores: Scores
    outcome: Outcome
    waiting: list[Expansion]
    step: int
    total: int
    world: int


class _Numbers(Kept, allow_inf_nan=True):
    """An object of figures, which are infinite or NaN where a training went wrong."""


class _Point(_Numbers):
    __pydantic_extra__: dict[str, float] = Field(init=False)  # each metric of the score
    step: int
    loss: float
    score: float


class _Selection(_Numbers):
    step: int
    chosen: list[str]
    scores: dict[str, float]
    roles: dict[str, str]


class _Best(_Numbers):
    score: float
    step: int


class _Outcome(_Numbers):
    steps: int
    history: list[_Point]
    selections: list[_Selection]
    losses: list[float]
    sizes: list[int]
    best: _Best | dict[None, None]


class _State(_Numbers):
    step: int
    outcome: _Outcome
    scores: dict[str, float]
    random: list[dict[str, Any]]


def clones(tensors: dict[str, Any]) -> dict[str, Any]:
    """Copies that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def copied(training: Resumable) -> dict[str, Any]:
    """The weights and the cores of a training as they are, for `back_to`."""
    cores = {each.site: clones(each.cores) for each in training.optimizer.expansions}
    return {"model": clones(training.model.state_dict()), "cores": cores}


def back_to(training: Resumable, kept: dict[str, Any]) -> None:
    """Bring back the weights and the cores of an earlier step."""
    training.model.load_state_dict(kept["model"])
    there = kept["cores"]
    expansions = [e for e in training.outcome.expansions if e.site in there]
    for each in expansions:
        for name, core in each.cores.items():
            core.data.copy_(there[each.site][name])
    training.outcome.expansions = expansions


def save(training: Resumable) -> None:
    """Everything that the rest of the training depends on, written by the first process."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    random = gather_object([{"cpu": torch.get_rng_state(), "cuda": cuda}])
    gather(training.model, training.live)
    optimizer = training.optimizer.state()
    if not training.accelerator.is_main_process:
        return
    expansions = [
        {"site": e.site, "form": e.decomposition.to_dict(), "cores": clones(e.cores)}
        | {"ratio": e.ratio, "moves": e.moves, "error": e.error}
        | {"rate": training.optimizer.group_of(e)[1]["ratio"]}
        for e in training.optimizer.expansions
    ]
    outcome = {k: v for k, v in vars(training.outcome).items() if k not in LIVE}
    training.store.save(
        {
            "step": training.step,
            "model": training.model.state_dict(),
            "optimizer": optimizer,
            "expansions": expansions,
            "scores": training.scores.values,
            "outcome": outcome,
            "random": random,
        }
    )


def restore(training: Resumable) -> None:
    """Continue from what `save` wrote. Raises NotLoadable for a state of another training."""
    saved = training.store.load()
    try:
        _check(training, saved)
        _restore(training, saved)
    except (Failure, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch and the model raise many kinds for a state of another one
        raise NotLoadable(
            f"the state in {training.store.folder} does not fit this run: --overwrite starts again"
        ) from error


def _check(training: Resumable, saved: dict[str, Any]) -> None:
    """Raises ValueError for a state that this training cannot have saved."""
    TypeAdapter(_State).validate_python(saved)
    done, seen = saved["step"], saved["outcome"]
    now = training.optimizer.schedule.state_dict()
    then = saved["optimizer"]["schedule"]
    same = [
        0 <= done <= training.total,
        done == len(seen["losses"]) == len(seen["sizes"]),
        saved["scores"].keys() == training.scores.values.keys(),
        len(saved["random"]) == training.world,
        {key: type(value) for key, value in then.items()}
        == {key: type(value) for key, value in now.items()},
    ]
    if not all(same):
        raise ValueError("parts of the state do not belong together")


def _restore(training: Resumable, saved: dict[str, Any]) -> None:
    training.step, training.scores.values = saved["step"], saved["scores"]
    training.model.load_state_dict(saved["model"])
    scatter(training.model, training.live)
    training.waiting = []
    for each in saved["expansions"]:
        module = training.model.base_model.get_submodule(each["site"])
        device = module.weight.device
        cores = {name: core.to(device) for name, core in each["cores"].items()}
        made = Expansion(each["site"], module, from_dict(each["form"]), cores)
        training.optimizer.swap(made, each["rate"])
        made.ratio, made.moves, made.error = each["ratio"], each["moves"], each["error"]
    training.optimizer.load(saved["optimizer"])
    for name, value in saved["outcome"].items():
        setattr(training.outcome, name, value)
    mine = saved["random"][training.accelerator.process_index]
    torch.set_rng_state(mine["cpu"])
    if mine["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])
