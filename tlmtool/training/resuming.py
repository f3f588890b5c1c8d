"""What a run of training keeps, so that a killed one goes on to the same weights, bit for bit."""

from typing import Any

import torch
from accelerate.utils import gather_object
from pydantic import TypeAdapter

from tlmtool.decompositions import from_dict
from tlmtool.failure import Failure, NotLoadable
from tlmtool.files.kept import Kept
from tlmtool.training.expansion import Expansion
from tlmtool.training.sharding import gather, scatter


class _Numbers(Kept, allow_inf_nan=True):
    """An object of figures, which may be those of a run that went wrong."""


class _Point(_Numbers):
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


def save(run: Any) -> None:
    """Everything that the rest of the run depends on, written by the first process."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    random = gather_object([{"cpu": torch.get_rng_state(), "cuda": cuda}])
    gather(run.model, run.live)
    optimizer = run.optimizer.state()
    if not run.accelerator.is_main_process:
        return
    kept = [
        {"site": e.site, "form": e.decomposition.to_dict(), "cores": clones(e.cores)}
        | {
            "ratio": e.ratio,
            "moves": e.moves,
            "error": e.error,
            "rate": run.optimizer.group_of(e)[1]["ratio"],
        }
        for e in run.optimizer.expansions
    ]
    outcome = {k: v for k, v in vars(run.outcome).items() if k != "expansions"}
    run.store.save(
        {
            "step": run.step,
            "model": run.model.state_dict(),
            "optimizer": optimizer,
            "expansions": kept,
            "scores": run.scores.values,
            "outcome": outcome,
            "random": random,
        }
    )


def restore(run: Any) -> None:
    """Stand where `save` stood. Raises NotLoadable for a state that is not one of this run."""
    kept = run.store.load()
    try:
        _check(run, kept)
        _restore(run, kept)
    except (Failure, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a part of the model makes of what is none of its own
        raise NotLoadable(
            f"the state in {run.store.folder} does not fit this run: --overwrite starts again"
        ) from error


def _check(run: Any, kept: dict[str, Any]) -> None:
    """Raises ValueError for a state that this run cannot have saved."""
    TypeAdapter(_State).validate_python(kept)
    done, seen = kept["step"], kept["outcome"]
    now = run.optimizer.schedule.state_dict()
    then = kept["optimizer"]["schedule"]
    same = [
        0 <= done <= run.total,
        done == len(seen["losses"]) == len(seen["sizes"]),
        kept["scores"].keys() == run.scores.values.keys(),
        len(kept["random"]) == run.world,
        {key: type(value) for key, value in then.items()}
        == {key: type(value) for key, value in now.items()},
    ]
    if not all(same):
        raise ValueError("parts of the state do not belong together")


def _restore(run: Any, kept: dict[str, Any]) -> None:
    run.step, run.scores.values = kept["step"], kept["scores"]
    run.model.load_state_dict(kept["model"])
    scatter(run.model, run.live)
    run.waiting = []
    if run.halfway and run.step > run.halfway:
        run.optimizer = run._optimizer(run.total - run.halfway)
    for each in kept["expansions"]:
        module = run.model.base_model.get_submodule(each["site"])
        device = module.weight.device
        cores = {name: core.to(device) for name, core in each["cores"].items()}
        made = Expansion(each["site"], module, from_dict(each["form"]), cores)
        run.optimizer.swap(made, each["rate"])
        made.ratio, made.moves, made.error = each["ratio"], each["moves"], each["error"]
    run.optimizer.load(kept["optimizer"])
    for name, value in kept["outcome"].items():
        setattr(run.outcome, name, value)
    mine = kept["random"][run.accelerator.process_index]
    torch.set_rng_state(mine["cpu"])
    if mine["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])
