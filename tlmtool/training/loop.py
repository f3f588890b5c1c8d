"""The training loop: plain, or over-parameterizing matrices on the way (static, dynamic)."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from tlmtool.failure import Failure
from tlmtool.models.factorized import Factorized
from tlmtool.recipe.schema import Strategy, Training
from tlmtool.training import sharding
from tlmtool.training.expansion import Expansion
from tlmtool.training.importance import Scores
from tlmtool.training.objectives import Objective
from tlmtool.training.optimizing import Optimizer, trainable
from tlmtool.training.order import length_of, split, steps_of
from tlmtool.training.resuming import clones, restore, save
from tlmtool.training.state import Store
from tlmtool.training.strategy import due, second_half, select

Tick = Callable[[int, int, float], None]  # (step, of how many, loss)


@dataclass
class Outcome:
    """What a training did: evaluations, selections, and the expansions it ended with."""

    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    selections: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of each step, a mean over its size
    sizes: list[int] = field(default_factory=list)  # examples, or predicted tokens
    best: dict[str, Any] = field(default_factory=dict)
    expansions: list[Expansion] = field(default_factory=list)

    def loss(self, since: int = 0) -> float:
        """The mean loss of the examples (or predicted tokens) seen after so many steps."""
        sizes = self.sizes[since:]
        total = sum(loss * n for loss, n in zip(self.losses[since:], sizes, strict=True))
        return total / max(1, sum(sizes))

    @property
    def told(self) -> int:
        """The step of the last evaluation."""
        return self.history[-1]["step"] if self.history else 0


class Trainer:
    """One run of training: what it moves, where it stands, and what `Store` needs of it."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        training: Training,
        strategy: Strategy,
        *,
        roles: dict[str, str],
        waiting: list[Expansion],
        accelerator: Accelerator,
        seed: int = 0,
        tuned: bool = False,
        store: Store | None = None,
        tick: Tick | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.model, self.objective, self.accelerator = model, objective, accelerator
        self.training, self.strategy, self.seed = training, strategy, seed
        self.store, self.tick, self.tell, self.roles = store, tick, tell, roles
        self.world = accelerator.num_processes
        self.least = self.world * training.accumulate
        t = training
        epoch, self.total = length_of(
            objective.lengths, t.batch, self.least, seed, t.epochs, t.steps
        )
        self.evaluate_every = training.evaluate_every or epoch
        self.choosing = training.keep_best or training.patience
        static = strategy.name == "static"
        self.halfway = (0 if tuned else self.total // 2) if static else None
        self.step, self.outcome = 0, Outcome()
        self.waiting = waiting  # expansions that the next gradient takes up
        self.weights = self._weights()
        kind = strategy.importance or ("zero-out" if static else "taylor")
        self.scores = Scores(kind, self.weights)
        end = self.total if self.halfway in (None, 0) else self.halfway
        self.sharded = sharding.asked()
        wrap = partial(sharding.Sharded, accelerator) if self.sharded else accelerator.prepare_model
        self.wrapped = wrap(model)
        self.live = self.wrapped.module if self.sharded else model  # what holds what is trained
        self.optimizer = self._optimizer(end)

    def _weights(self) -> dict[str, nn.Parameter]:
        """{site: weight} of the linears that may be expanded, and of those that are already."""
        base, found = self.model.base_model, {}
        for site in [*self.roles, *(each.site for each in self.waiting)]:
            module = base.get_submodule(site)
            if not isinstance(module, Factorized) and module.weight.requires_grad:
                found[site] = module.weight
        return found

    def _optimizer(self, steps: int) -> Optimizer:
        t = self.training
        warmup = int(t.warmup if t.warmup >= 1 else t.warmup * steps)
        return Optimizer(self.live, self.weights, t.lr, t.decay, t.schedule, warmup, steps)

    # ---- a step

    def backward(self, epoch: int, places: list[int]) -> tuple[float, int]:
        """The gradient of the mean loss over the whole batch, on every process; that loss, and
        over how many examples or predicted tokens it is."""
        parts = [
            self.objective.part(each, epoch) for each in split(places, self.least) if len(each)
        ]
        size = sum(map(self.objective.count, parts))
        mine = parts[self.accelerator.process_index :: self.world]
        loss = torch.zeros((), device=self.accelerator.device)
        for i, part in enumerate(mine):
            last = i == len(mine) - 1
            summed = last or self.sharded  # which keeps sums in shards alone, and so no more memory
            with nullcontext() if summed else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    each = self.objective.loss(self.wrapped, self.live, part) / max(1, size)
                self.accelerator.backward(each * self.world)  # wrapping averages over processes
            loss += each.detach()
        return float(self.accelerator.reduce(loss, "sum")), size

    def learn(self, epoch: int, places: list[int]) -> tuple[float, int]:
        """One step of the optimizer, after whatever the strategy does before it."""
        loss, size = self.backward(epoch, places)
        if not math.isfinite(loss):
            raise Failure(self._not_finite(loss))
        if self.store and self.accelerator.is_main_process:
            self.store.keep()  # the state before this step has a finite loss
        dynamic = self.strategy.name == "dynamic"
        if dynamic or (self.halfway and self.step < self.halfway):
            self.scores.add()
        if self.training.clip:
            self.accelerator.clip_grad_norm_(self.live.parameters(), self.training.clip)
        if dynamic and due(self):
            self.waiting += select(self, self.strategy.n)
        project = self.strategy.moments == "project"
        for each in self.waiting:
            self.optimizer.take(each, not self.strategy.no_lr_match, project)
        if self.waiting:
            self.waiting = []
            self.check()
        self.optimizer.step()
        return loss, size

    def check(self) -> None:
        """What the optimizer moves is what is to be trained, each once."""
        held = [id(p) for p in self.optimizer.parameters()]
        if sorted(held) != sorted(id(p) for p in trainable(self.live, self.optimizer.expansions)):
            raise AssertionError("the optimizer does not hold exactly what is to be trained")

    def start_again(self) -> None:
        """An optimizer for the steps that are left; what is expanded already stays so."""
        before, self.optimizer = self.optimizer, self._optimizer(self.total - self.step)
        for each in before.expansions:
            self.optimizer.swap(each, before.group_of(each)[1]["ratio"])

    # ---- the run

    def run(self) -> Outcome:
        """Train from where it stands to the end."""
        if self.training.resume and self.store and self.store.there:
            restore(self)
        else:
            torch.manual_seed(1000 * self.seed + self.accelerator.process_index)
        self.check()
        self.live.train(self.objective.dropout)
        lengths, batch = self.objective.lengths, self.training.batch
        for epoch, places in steps_of(lengths, batch, self.least, self.seed, self.step):
            if self.step >= self.total:
                break
            if self.step == self.halfway and not self.outcome.selections:
                second_half(self)
            loss, size = self.learn(epoch, places)
            self.step += 1
            self.outcome.losses.append(loss)
            self.outcome.sizes.append(size)
            self.accelerator.log({"loss": loss, "lr": self.optimizer.lr}, self.step)
            if self.tick:
                self.tick(self.step, self.total, loss)
            ends = self.choosing and self.step == self.total
            over = (ends or self.step % self.evaluate_every == 0) and self.evaluate()
            if over or self.step == self.total:
                break
            if self.store and self.step % self.training.save_every == 0:
                save(self)
        sharding.gather(self.model, self.live)
        self.outcome.steps, self.outcome.expansions = self.step, self.optimizer.expansions
        return self.outcome

    def evaluate(self) -> bool:
        """Score the model as it is; whether patience has run out."""
        sharding.gather(self.model, self.live)
        found = [self.objective.measure(self.model)]
        self.live.train(self.objective.dropout)
        broadcast_object_list(found)
        score, best = found[0]["score"], self.outcome.best
        loss = self.outcome.loss(self.outcome.told)
        entry = {"step": self.step, "loss": loss, **found[0]}
        self.outcome.history.append(entry)
        self.accelerator.log({f"dev/{k}": v for k, v in found[0].items()}, self.step)
        told = f"{self.objective.name} {score:.4f}"
        self.tell(f"step {self.step}: loss {entry['loss']:.4f}, {told}")
        sign = 1 if self.objective.better == "higher" else -1
        if not best or sign * score > sign * best["score"]:
            self.outcome.best = {"score": score, "step": self.step}
            if self.training.keep_best:
                self.outcome.best |= {"weights": self._copied()}
        patience = self.training.patience
        waited = sum(h["step"] > self.outcome.best["step"] for h in self.outcome.history)
        return patience is not None and waited >= patience

    def back_to(self, kept: dict[str, Any]) -> None:
        """The model, and the cores, of an earlier step."""
        self.model.load_state_dict(kept["model"])
        there = kept["cores"]
        expansions = [e for e in self.outcome.expansions if e.site in there]
        for each in expansions:
            for name, core in each.cores.items():
                core.data.copy_(there[each.site][name])
        self.outcome.expansions = expansions

    def _copied(self) -> dict[str, Any]:
        cores = {each.site: clones(each.cores) for each in self.optimizer.expansions}
        return {"model": clones(self.model.state_dict()), "cores": cores}

    def _not_finite(self, loss: float) -> str:
        kept = self.store and self.store.own
        where = f"; the last good state is in {self.store.folder}" if kept else ""
        return (
            f"the loss is {loss} at step {self.step + 1} of {self.total}{where}: "
            "try a lower --lr, or clipping"
        )
