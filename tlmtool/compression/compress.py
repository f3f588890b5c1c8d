"""`compress`: measure the inputs, plan, and swap dense linears for factors, in place."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from tlmtool.compression import allocation, calibration, planning
from tlmtool.compression.candidates import Candidates, left_out, select
from tlmtool.compression.drafting import Draft
from tlmtool.compression.fits import Limit
from tlmtool.compression.fitting import fit
from tlmtool.compression.journal import Journal
from tlmtool.compression.sharing import Shared
from tlmtool.compression.statistics import Progress, Statistics
from tlmtool.data.batching import Batch
from tlmtool.data.windows import Windows
from tlmtool.decompositions import from_dict
from tlmtool.failure import Usage
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import Plan
from tlmtool.recipe.compression import ALLOCATIONS, Compression

PLANNED = (
    "left_dense",
    "warnings",
    "loss",
    "tokens",
    "keep",
)  # of a journal
TOKENS = 2048  # in a calibration batch, padding included: more of them take more memory


@dataclass
class Outcome:
    """What a compression did: the plan, a record for each site, and what it cost. `keep`: that of
    the plan, which a limit may have lowered."""

    plan: Plan
    sites: list[dict[str, Any]] = field(default_factory=list)
    left_dense: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    loss: str | None = None
    keep: float | None = None
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
    texts: list[str] | Windows | None = None,
    max_length: int = 128,
    sequential: bool = True,
    seed: int = 0,
    bits: int | None = None,
    limit: Limit | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    journal: Journal | None = None,
    shared: Shared | None = None,
) -> Outcome:
    """Factorize linears of a transformers model in place; it becomes a `tlm-<type>` model.

    Exactly one budget: `rank` for every site, `keep` (share of the sites' parameters) or `energy`
    (share of each site's squared singular values). `texts`, with a `tokenizer`, weigh the error by
    the inputs that the sites get. With `sequential` each site is also fitted to the inputs that the
    compressed layers before it give, with the dense model's outputs as target. `bits`: those of the
    stored weights, for which ranks are chosen; a `limit` of their bytes sets `keep`. `dry_run` only
    plans. A `journal` keeps what is done. Compressions that differ in the budget alone may have one
    `shared`, so that a model is measured once. Raises Usage for what cannot be.

    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2,
    ...                     num_attention_heads=4, intermediate_size=64)
    >>> model = BertModel(config)
    >>> outcome = compress(model, keep=0.5, sites="attention,ffn")
    >>> model.config.model_type
    'tlm-bert'
    """
    started, fitted = time.perf_counter(), "sequential" if sequential else "once"
    named = {"sites": _globs(sites), "ignore": tuple(ignore), "overrides": tuple(overrides)}
    budget = {"rank": rank, "keep": keep, "energy": energy, "allocate": allocate}
    wanted = Compression(**named, **budget, method=method, blocks=blocks, fit=fitted)
    candidates = check(model, wanted, bool(texts), bits)
    batches = _batches(model, tokenizer, texts, max_length) if texts else []
    sensitive = sequential and rank is None
    statistics = Statistics(model, candidates.roles, batches, sensitive, seed, progress, shared)
    with torch.no_grad():
        outcome = _outlined(candidates, statistics, wanted, journal, limit)
        outcome.seconds["plan"] = time.perf_counter() - started
        if not dry_run:
            started = time.perf_counter()
            draft = Draft(outcome.plan, outcome.left_dense, outcome.warnings)
            outcome.sites = fit(statistics, draft, sequential and bool(batches), journal)
            adopt(model)
            outcome.seconds["fit"] = time.perf_counter() - started
    return outcome


def check(model: Any, wanted: Compression, weighed: bool, bits: int | None = None) -> Candidates:
    """The candidates of the sites named, of a model with or without weights.

    Raises Usage for all that can be refused before anything is measured. `weighed`: calibration
    texts will weigh the errors; `bits`: in which the weights will be stored.
    """
    _one_budget(wanted)
    sites = Candidates(model, select(model, wanted.sites, wanted.ignore), wanted.blocks, bits)
    planning.check(sites, wanted.rank, wanted.share, wanted.method, wanted.overrides, weighed)
    return sites


def _batches(
    model: Any, tokenizer: Any, texts: list[str] | Windows, max_length: int
) -> list[Batch]:
    """The calibration batches; raises Usage where there is no tokenizer."""
    if tokenizer is None:
        raise Usage("calibration texts need a tokenizer")
    return calibration.prepared(model, tokenizer, texts, max_length, TOKENS)


def _globs(sites: str | Iterable[str]) -> tuple[str, ...]:
    """The names and globs of sites, which may be given as one text by comma."""
    parts = sites.split(",") if isinstance(sites, str) else sites
    return tuple(part.strip() for part in parts if part.strip())


def _outlined(
    sites: Candidates,
    statistics: Statistics,
    wanted: Compression,
    journal: Journal | None,
    limit: Limit | None,
) -> Outcome:
    """The plan that the journal of a killed run holds; otherwise a new one, which it then keeps."""
    if journal and journal.plan is not None:
        return _from_dict(journal.plan)
    outcome = _planned(sites, statistics, wanted, limit)
    if journal:
        journal.begin(_to_dict(outcome))
    return outcome


def _planned(
    sites: Candidates, statistics: Statistics, wanted: Compression, limit: Limit | None
) -> Outcome:
    """The plan by rank or by budget, and what is known of it before anything is fitted."""
    weighed, keep = bool(statistics.batches), wanted.share

    def made(keep: float | None) -> Draft:
        budget = keep, wanted.energy, wanted.method or "auto", wanted.allocate
        return planning.by_budget(sites, statistics, *budget)

    if wanted.rank is not None:
        draft = planning.by_rank(sites, wanted.rank, wanted.method, wanted.overrides)
    else:
        draft, keep = limit.largest(made) if limit else (made(keep), keep)
    planning.check_draft(draft, weighed)
    draft.warnings += left_out(sites.model, wanted.sites)
    if blind := statistics.blind if weighed else []:
        draft.warnings.append(
            f"{len(blind)} sites such as {blind[0]} are fitted without text: they are not called, "
            "or what they read has no row for each token"
        )
    told = {"left_dense": draft.left_dense, "warnings": draft.told, "keep": keep}
    outcome = Outcome({**draft.plan}, **told)
    if wanted.share is not None and wanted.allocate == "greedy":
        outcome.loss = allocation.loss(weighed, wanted.fit == "sequential")
    outcome.tokens = sum(int(b.inputs["attention_mask"].sum()) for b in statistics.batches)
    return outcome


def _to_dict(planned: Outcome) -> dict[str, Any]:
    """What is known of a compression before anything is fitted, as plain values."""
    plan = [[site, found.to_dict()] for site, found in planned.plan.items()]
    return {key: getattr(planned, key) for key in PLANNED} | {"plan": plan}


def _from_dict(kept: dict[str, Any]) -> Outcome:
    """The inverse of `_to_dict`."""
    plan = {site: from_dict(found) for site, found in kept["plan"]}
    return Outcome(plan, **{key: kept[key] for key in PLANNED})


def _one_budget(wanted: Compression) -> None:
    """Raises Usage unless there is exactly one budget, with what goes with it."""
    budgets = [b for b in (wanted.rank, wanted.share, wanted.energy) if b is not None]
    if len(budgets) != 1:
        raise Usage(f"exactly one of rank, keep and energy is needed, got {len(budgets)}")
    shares = [share for share in (wanted.share, wanted.energy) if share is not None]
    if not all(0 < share <= 1 for share in shares):
        raise Usage(f"keep and energy are shares above 0 and up to 1, got {shares[0]}")
    if wanted.allocate not in ALLOCATIONS:
        known = ", ".join(ALLOCATIONS)
        raise Usage(f"unknown way to allocate {wanted.allocate!r}; known: {known}")
    if wanted.overrides and wanted.rank is None:
        raise Usage("overrides give ranks to globs: they go with rank, not with keep or energy")
