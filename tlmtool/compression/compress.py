"""`compress`: measure the inputs, plan, and swap dense linears for factors, in place."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from tlmtool.compression import allocation, calibration, planning
from tlmtool.compression.fitting import fit
from tlmtool.compression.planning import Forms, by_budget, by_rank, check_draft, select
from tlmtool.compression.statistics import Progress, Statistics
from tlmtool.data.batching import Batch
from tlmtool.failure import Usage
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import Plan

TOKENS = 2048  # in a calibration batch, with padding


@dataclass
class Outcome:
    """What a compression did: the plan, a record for each site, and what it cost."""

    plan: Plan
    sites: list[dict] = field(default_factory=list)
    left_dense: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    loss: str | None = None
    tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def compress(
    model: Any,
    *,
    rank: int | None = None,
    keep: float | None = None,
    energy: float | None = None,
    sites: str | Iterable[str] = "attention",
    ignore: Iterable[str] = (),
    method: str | None = None,
    blocks: int | None = None,
    allocate: str = "greedy",
    overrides: Iterable[Any] = (),
    tokenizer: Any = None,
    texts: list[str] | None = None,
    max_length: int = 128,
    sequential: bool = True,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Factorize linears of a transformers model in place; it becomes a `tlm-<type>` model.

    Exactly one budget: `rank` for every site, `keep` (share of the sites' parameters) or `energy`
    (share of each site's squared singular values). `texts` with a `tokenizer` weigh the error by
    the inputs that the sites get; `sequential` also fits each site to the inputs that the already
    compressed layers give it, with the dense model's outputs as target. `dry_run` only plans.
    Raises Usage for a budget, site or method that cannot be.

    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2,
    ...                     num_attention_heads=4, intermediate_size=64)
    >>> model = BertModel(config)
    >>> outcome = compress(model, keep=0.5, sites="attention,ffn")
    >>> model.config.model_type
    'tlm-bert'
    """
    overrides, started = list(overrides), time.perf_counter()
    forms = check(
        model, rank, keep, energy, sites, ignore, method, blocks, allocate, overrides, bool(texts)
    )
    roles, batches = forms.roles, list[Batch]()
    if texts:
        if tokenizer is None:
            raise Usage("calibration texts need a tokenizer")
        batches = calibration.prepared(model, tokenizer, texts, max_length, TOKENS)
    sensitive = sequential and rank is None
    statistics = Statistics(model, roles, batches, sensitive, seed, progress)
    with torch.no_grad():
        if rank is not None:
            draft = by_rank(forms, rank, method, overrides)
        else:
            draft = by_budget(forms, statistics, keep, energy, method or "auto", allocate)
        check_draft(draft, bool(batches))
        outcome = Outcome(draft.plan, left_dense=draft.left_dense, warnings=draft.warnings)
        if keep is not None and allocate == "greedy":
            outcome.loss = allocation.loss(bool(batches), sequential)
        outcome.tokens = sum(int(b.inputs["attention_mask"].sum()) for b in batches)
        outcome.seconds["plan"] = time.perf_counter() - started
        if not dry_run:
            started = time.perf_counter()
            outcome.sites = fit(statistics, draft, sequential and bool(batches))
            adopt(model)
            outcome.seconds["fit"] = time.perf_counter() - started
    return outcome


def check(
    model: Any,
    rank: int | None,
    keep: float | None,
    energy: float | None,
    sites: str | Iterable[str],
    ignore: Iterable[str],
    method: str | None,
    blocks: int | None,
    allocate: str,
    overrides: Iterable[Any],
    weighed: bool,
) -> Forms:
    """The forms of the sites named, of a model with or without weights. Raises Usage for all that
    can be refused before anything is measured; `weighed`: by calibration texts."""
    overrides = list(overrides)
    _one_budget(rank, keep, energy, allocate, overrides)
    if isinstance(sites, str):
        sites = [part.strip() for part in sites.split(",") if part.strip()]
    forms = Forms(model, select(model, sites, ignore), blocks)
    planning.check(forms, rank, keep, method, overrides, weighed)
    return forms


def _one_budget(
    rank: int | None, keep: float | None, energy: float | None, allocate: str, overrides: list[Any]
) -> None:
    """Raises Usage unless there is exactly one budget, and what goes with it."""
    budgets = [b for b in (rank, keep, energy) if b is not None]
    if len(budgets) != 1:
        raise Usage(f"exactly one of rank, keep and energy is needed, got {len(budgets)}")
    if not all(0 < share <= 1 for share in (keep, energy) if share is not None):
        raise Usage(f"keep and energy are shares above 0 and up to 1, got {keep or energy}")
    if allocate not in ("greedy", "uniform"):
        raise Usage(f"unknown way to allocate {allocate!r}; known: greedy, uniform")
    if overrides and rank is None:
        raise Usage("overrides give ranks to globs: they go with rank, not with keep or energy")
