"""The training loop: plain, or over-parameterizing matrices on the way (static, dynamic)."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from tlmtool.data.state import Store
from tlmtool.failure import Failure
from tlmtool.models.factorized import Factorized
from tlmtool.recipe.schema import Strategy, Training
from tlmtool.report.figures import brief
from tlmtool.training import memory, sharding
from tlmtool.training.expansion import Expansion
from tlmtool.training.importance import Scores
from tlmtool.training.objectives import Objective
from tlmtool.training.optimizing import Optimizer, trainable
from tlmtool.training.order import batches_of, length_of, parts_of, steps_of
from tlmtool.training.outcome import Outcome
from tlmtool.training.resuming import copied, restore, save
from tlmtool.training.strategy import Selector

LATE = 16  # steps whose losses a GPU is asked for at once; with fewer it waits more often
LOOKS = 8  # batches whose gradients rank the matrices of a checkpoint that already has its head
Tick = Callable[[int, int, str], None]  # (step, of how many, loss and rate in words)


class Trainer:
    """Trains a model: `train` runs the loop, `learn` is one step of it.

    `roles`: {site: role} of what may be expanded. `waiting`: expansions of sites that a checkpoint
    holds as factors. `tuned`: whether the checkpoint has the task's head. `tick` is called at each
    step with (step, of how many, loss and rate), and `tell` with lines to show.
    """

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
        self.late = LATE if accelerator.device.type == "cuda" and not store else 1
        self.waiting = waiting  # expansions that the next step takes up
        self.weights = self._weights()
        kind = strategy.importance or ("zero-out" if static else "taylor")
        self.scores = Scores(kind, self.weights)
        self.selector = Selector(model, objective, strategy, self.scores, roles, seed, self.world)
        self.sharded = sharding.asked()
        cut = accelerator.device.type == "cpu" and not (self.sharded or t.checkpointing)
        self.most = memory.tokens_at_once(model) if cut else None
        wrap = partial(sharding.Sharded, accelerator) if self.sharded else accelerator.prepare_model
        self.wrapped = wrap(model)
        self.live = self.wrapped.module if self.sharded else model  # holds what is trained
        warmup = int(t.warmup if t.warmup >= 1 else t.warmup * self.total)
        settings = (t.lr, t.decay, t.schedule, warmup, self.total)
        self.optimizer = Optimizer(self.live, self.weights, *settings)

    def _weights(self) -> dict[str, nn.Parameter]:
        """{site: weight} of the linears that may be expanded, and of those that are already."""
        base, found = self.model.base_model, {}
        for site in [*self.roles, *(each.site for each in self.waiting)]:
            module = base.get_submodule(site)
            if not isinstance(module, Factorized) and module.weight.requires_grad:
                found[site] = module.weight
        return found

    # ---- a step

    def backward(self, epoch: int, places: list[int]) -> tuple[Tensor, int]:
        """Computes the gradient of the mean loss over the whole batch, on every process. Returns
        that loss, and the number of examples or predicted tokens that it is a mean of."""
        cut = parts_of(places, self.least, self.objective.lengths, self.most)
        parts = [[self.objective.part(each, epoch) for each in several] for several in cut]
        size = sum(self.objective.count(part) for several in parts for part in several)
        own = parts[self.accelerator.process_index :: self.world]
        mine = [part for several in own for part in several]
        loss = torch.zeros((), device=self.accelerator.device)
        for i, part in enumerate(mine):
            summed = i == len(mine) - 1 or self.sharded  # shards keep sums of their own part alone
            with nullcontext() if summed else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    each = self.objective.loss(self.wrapped, self.live, part) / max(1, size)
                self.accelerator.backward(each * self.world)  # wrapping averages over processes
            loss += each.detach()
        return self.accelerator.reduce(loss, "sum"), size

    def read(self) -> None:
        """Read the losses of the last steps. Raises Failure for one that is not finite."""
        if wrong := self.outcome.read():
            kept = self.store and self.store.own
            where = f"; the last good state is in {self.store.folder}" if kept else ""
            raise Failure(
                f"the loss is {wrong[1]} at step {wrong[0]} of {self.total}{where}: "
                "try a lower --lr, or clipping"
            )

    def learn(self, epoch: int, places: list[int]) -> None:
        """One step of the optimizer, after whatever the strategy does before it."""
        loss, size = self.backward(epoch, places)
        self.outcome.unread.append(loss)
        self.outcome.sizes.append(size)
        if (self.step + 1) % self.late == 0:
            self.read()
        if self.store and self.accelerator.is_main_process:
            self.store.keep()  # the state before this step has a finite loss
        dynamic = self.strategy.name == "dynamic"
        if dynamic or (self.halfway and self.step < self.halfway):
            self.scores.add()
        if self.training.clip:
            self.accelerator.clip_grad_norm_(self.live.parameters(), self.training.clip)
        if dynamic and self.selector.due(self.step + 1, self.total, self.outcome.selections):
            self.select(self.strategy.n)
        project = self.strategy.moments == "project"
        for each in self.waiting:
            self.optimizer.take(each, not self.strategy.no_lr_match, project)
        if self.waiting:
            self.waiting = []
            self.check()
        self.optimizer.step()

    def check(self) -> None:
        """Raises AssertionError unless the optimizer holds each parameter to be trained once."""
        held = [id(p) for p in self.optimizer.parameters()]
        if sorted(held) != sorted(id(p) for p in trainable(self.live, self.optimizer.expansions)):
            raise AssertionError("the optimizer does not hold exactly what is to be trained")

    # ---- over-parameterizing

    def select(self, n: int) -> None:
        """Select `n` matrices of each group, whose expansions the next step takes up."""
        taken = {each.site for each in [*self.optimizer.expansions, *self.waiting]}
        entry = self.selector.select(n, self.step + 1, taken)
        if sites := entry["chosen"]:
            self.outcome.selections.append(entry)
            self.tell(f"step {entry['step']}: over-parameterizing {brief(sites, self.roles)}")
        self.waiting += map(self.selector.expand, sites)

    def select_once(self) -> None:
        """Static: the top N of each group, by what the first half learned; the schedule and the
        optimizer go on. A checkpoint with the task's head has no first half: the gradients of a
        few batches rank its matrices."""
        if not self.halfway and self.scores.kind != "zero-out":
            settings = (self.training.batch, self.least, self.seed, -1)
            for places in batches_of(self.objective.lengths, *settings)[:LOOKS]:
                self.backward(0, places)
                self.scores.add()
                self.optimizer.adam.zero_grad()
        self.select(self.strategy.N)

    # ---- all steps

    def train(self) -> Outcome:
        """Train to the end, from the start or from a saved state."""
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
                self.select_once()
            self.learn(epoch, places)
            self.step += 1
            if self.step == self.total:
                self.read()
            losses, rate = self.outcome.losses, self.optimizer.lr
            if self.late == 1:
                self.accelerator.log({"loss": losses[-1], "lr": rate}, self.step)
            if self.tick:
                told = f"loss {losses[-1]:.4f}, " if losses else ""
                self.tick(self.step, self.total, f"{told}rate {rate:.1e}")
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
        """Score the model as it is. Returns whether patience has run out."""
        self.read()
        sharding.gather(self.model, self.live)
        found = [self.objective.measure(self.model)]
        self.live.train(self.objective.dropout)
        broadcast_object_list(found)
        score, best = found[0]["score"], self.outcome.best
        loss = self.outcome.loss(self.outcome.evaluated)
        entry = {"step": self.step, "loss": loss, **found[0]}
        self.outcome.history.append(entry)
        self.accelerator.log({f"dev/{k}": v for k, v in found[0].items()}, self.step)
        told = f"{self.objective.name} {score:.4f}"
        self.tell(f"step {self.step}: loss {entry['loss']:.4f}, {told}")
        sign = 1 if self.objective.better == "higher" else -1
        if not best or sign * score > sign * best["score"]:
            self.outcome.best = {"score": score, "step": self.step}
            if self.training.keep_best:
                self.outcome.best |= {"weights": copied(self)}
        patience = self.training.patience
        waited = sum(h["step"] > self.outcome.best["step"] for h in self.outcome.history)
        return patience is not None and waited >= patience
