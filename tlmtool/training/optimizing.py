"""AdamW with a group for each weight that may be expanded, so that cores can replace a weight.

A group keeps its place among the others, as the schedule knows it by that; all other state stays.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from tlmtool.models.factorized import Factorized
from tlmtool.training.expansion import Expansion, State
from tlmtool.training.sharding import like, whole

BETAS, EPSILON = (0.9, 0.999), 1e-8
WARMED = {"constant": "constant_with_warmup"}  # transformers' names


class Optimizer:
    """AdamW over the trainable parameters of a model, its schedule, and the expansions it moves.

    `weights`: {site: weight} of what may be expanded. Weight decay applies to matrices alone, not
    to vectors, and not to the factors of a compressed site, whose product would decay once for
    each factor. An expanded weight decays as W, once.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: dict[str, nn.Parameter],
        lr: float,
        decay: float,
        schedule: str,
        warmup: int,
        steps: int,
    ):
        held = {id(w): site for site, w in weights.items() if w.requires_grad}
        factors = {
            id(f) for m in model.modules() if isinstance(m, Factorized) for f in m.factors.values()
        }
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
        plain = [p for p in rest if p.ndim < 2 or id(p) in factors]
        matrices = [p for p in rest if p.ndim >= 2 and id(p) not in factors]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": matrices}]
        groups += [{"params": [w], "site": s} for s, w in weights.items() if id(w) in held]
        self.decay, self.names = decay, {id(p): name for name, p in model.named_parameters()}
        groups = [group for group in groups if group["params"]]
        fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
        self.adam = torch.optim.AdamW(groups, lr, BETAS, EPSILON, decay, fused=fused)
        self.schedule = get_scheduler(WARMED.get(schedule, schedule), self.adam, warmup, steps)
        self.expansions: list[Expansion] = []

    @property
    def lr(self) -> float:
        """The rate of this step, before it is matched to cores."""
        group = self.adam.param_groups[0]
        return group["lr"] * group.get("ratio", 1.0)

    def parameters(self) -> list[nn.Parameter]:
        """All that the optimizer moves."""
        return [p for group in self.adam.param_groups for p in group["params"]]

    def group_of(self, expansion: Expansion) -> tuple[int, dict[str, Any]]:
        """(place, group) of the weight of an expansion. Raises KeyError for a site without one."""
        for place, group in enumerate(self.adam.param_groups):
            if group.get("site") == expansion.site:
                return place, group
        raise KeyError(f"{expansion.site} is no weight of this optimizer that may be expanded")

    def take(self, expansion: Expansion, match: bool, project: bool) -> None:
        """Replace a weight by its cores in the weight's group, between backward and `step`.

        `match`: the rate of the cores is divided by `expansion.ratio`, which is measured here on
        the present gradient. `project`: the moments of the cores are those of the weight, carried
        back to them. Otherwise they start at zero, and the ratio is that of two first steps.
        """
        index = self.group_of(expansion)[0]
        state = self.adam.state.pop(expansion.weight, {})
        cores, dense = list(expansion.cores.values()), expansion.gradient()
        states: list[State] = [{} for _ in cores]
        turned = {k: v.T if expansion.turned and v.ndim == 2 else v for k, v in state.items()}
        if project and turned:
            means = torch.autograd.grad(
                expansion.built, cores, turned["exp_avg"], retain_graph=True
            )
            squares = expansion.squares(turned["exp_avg_sq"])
            states = [
                {
                    "step": state["step"].clone(),
                    "exp_avg": m.contiguous(),
                    "exp_avg_sq": s.contiguous(),
                }
                for m, s in zip(means, squares, strict=True)
            ]
        gradients = torch.autograd.grad(expansion.built, cores, dense, retain_graph=True)
        rate = self.schedule.base_lrs[index]
        moved = {
            name: core.detach() - rate * direction(g, s)
            for (name, core), g, s in zip(expansion.cores.items(), gradients, states, strict=True)
        }
        step = expansion.decomposition.reconstruct(moved) - expansion.built.detach()
        dense_step = rate * direction(dense, turned if project else {})
        expansion.ratio = float(step.norm() / dense_step.norm().clamp_min(1e-30))
        self.swap(expansion, expansion.ratio if match else 1.0)
        for core, found in zip(cores, states, strict=True):
            if found:
                self.adam.state[core] = found

    def swap(self, expansion: Expansion, ratio: float) -> None:
        """Put the cores in the weight's group, at its rate divided by `ratio`, without decay."""
        index, group = self.group_of(expansion)
        group |= {"params": list(expansion.cores.values()), "weight_decay": 0.0, "ratio": ratio}
        for key in ("lr", "initial_lr"):
            group[key] = group[key] / ratio
        self.schedule.base_lrs[index] /= ratio
        self.expansions.append(expansion)
        self.names |= {id(c): f"{expansion.site}.{n}" for n, c in expansion.cores.items()}

    def step(self) -> None:
        """Carry dL/dW back to the cores, take an AdamW step, rebuild each W, and move the rate."""
        for each in self.expansions:
            each.pull()
            if not each.moves:
                each.first = {name: core.detach().clone() for name, core in each.cores.items()}
        self.adam.step()
        for each in self.expansions:
            group = self.group_of(each)[1]
            each.rebuild(group["lr"] * group["ratio"] * self.decay)
            if not each.moves and group["lr"] > 0:
                each.moves = {
                    n: float((c.detach() - each.first[n]).norm()) for n, c in each.cores.items()
                }
                each.first = {}
        self.schedule.step()
        self.adam.zero_grad()

    def state(self) -> dict[str, Any]:
        """What `load` takes: the state of each parameter by name, that of the schedule, rates."""
        return {
            "adam": {
                self.names[id(p)]: {key: whole(value) for key, value in s.items()}
                for p, s in self.adam.state.items()
            },
            "schedule": self.schedule.state_dict(),
            "rates": [(group["lr"], group["initial_lr"]) for group in self.adam.param_groups],
        }

    def load(self, kept: dict[str, Any]) -> None:
        """Take over what `state` gave. Raises KeyError for the state of an unknown parameter."""
        here = {self.names[id(p)]: p for p in self.parameters()}
        for name, state in kept["adam"].items():
            p = here[name]
            self.adam.state[p] = {key: like(value, p) for key, value in state.items()}
        self.schedule.load_state_dict(kept["schedule"])
        for group, (rate, first) in zip(self.adam.param_groups, kept["rates"], strict=True):
            group["lr"], group["initial_lr"] = rate, first


def direction(gradient: Tensor, state: State) -> Tensor:
    """What the next step of AdamW subtracts from a parameter, per unit of rate; its first step
    where there is no state."""
    step = float(state["step"]) + 1 if state else 1.0
    first, second = (1 - BETAS[0]) * gradient, (1 - BETAS[1]) * gradient.square()
    if state:
        first = first + BETAS[0] * state["exp_avg"]
        second = second + BETAS[1] * state["exp_avg_sq"]
    first, second = first / (1 - BETAS[0] ** step), second / (1 - BETAS[1] ** step)
    return first / (second.sqrt() + EPSILON)


def trainable(model: nn.Module, expansions: Iterable[Expansion]) -> list[nn.Parameter]:
    """What training may move: the parameters of the model, with cores instead of their weights."""
    expansions = list(expansions)
    expanded = {id(each.weight) for each in expansions}
    own = [p for p in model.parameters() if p.requires_grad and id(p) not in expanded]
    return own + [core for each in expansions for core in each.cores.values()]
