"""What `compress` tells before its work: seconds and memory, and all that a dry run can say."""

import copy
from dataclasses import replace
from math import prod
from typing import Any

from tlmtool.commands.calibrating import TEXT, Material
from tlmtool.commands.converting import predicted
from tlmtool.commands.costs import Costs
from tlmtool.commands.limits import HALF, Limit
from tlmtool.commands.provenance import provenance
from tlmtool.commands.run import Run
from tlmtool.compression import calibration, planning
from tlmtool.compression.candidates import Candidates, left_out
from tlmtool.compression.compress import TOKENS, check
from tlmtool.compression.drafting import Draft
from tlmtool.compression.forecasting import Forecast, Room, Texts, forecast
from tlmtool.compression.ranges import Open
from tlmtool.data.batching import encode, joined_ids
from tlmtool.data.language import HELD_TOKENS
from tlmtool.data.lessons import BATCH, Lesson, texts_of
from tlmtool.data.windows import AT_A_STEP
from tlmtool.measuring.costing import Body, Text, probed_of
from tlmtool.measuring.counting import count_parameters
from tlmtool.measuring.losses import MASKED, objective_of
from tlmtool.measuring.machine import rates
from tlmtool.measuring.perplexity import AT_ONCE
from tlmtool.measuring.profiling import resident
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.models.surgery import factorize
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.compression import Compression
from tlmtool.report.layout import Part
from tlmtool.report.parts.calibration import Allocation
from tlmtool.report.parts.costs import Flops, Parameters, WeightBytes
from tlmtool.report.parts.ending import Predicted
from tlmtool.report.parts.forecast import Range, SiteRange, Span
from tlmtool.report.parts.sites import LeftDense, Sites
from tlmtool.report.report import Report

KNOWN = (
    "measuring before",
    "measuring int8",
    "measuring inputs",
    "measuring sensitivity",
    "planning",
)
# the stages that were shared with an earlier compression of the same model
ROWS = 32  # texts in a batch that is measured
SOME = 512  # texts whose tokens are counted; the others are taken to be as long


def foretold(
    run: Run,
    empty: Any,
    costs: Costs,
    sites: Candidates,
    tokenizer: Any,
    material: Material,
    taught: Lesson | None,
) -> Forecast:
    """The forecast of a run, after a probe of this machine that takes about two seconds."""
    recipe, wanted = run.recipe, run.recipe.compression
    texts = _texts(recipe, empty, tokenizer, material, taught)
    device = checkpoint.device_of(recipe.device)
    probed = replace(probed_of(empty, sites.roles, texts.calibration, TOKENS), device=device)
    share = wanted.share or 1.0
    if wanted.rank is not None:
        draft = planning.by_rank(sites, *_by_rank(wanted))
        sizes = {site: prod(sites.shape(site)) for site in sites.roles}
        kept = sum(
            sites.size(site, draft.plan[site]) if site in draft.plan else size
            for site, size in sizes.items()
        )
        share = kept / sum(sizes.values())
    before, length = costs.before, texts.calibration.length
    body = Body.of(empty, sites.roles, before.parts, before.length, length)
    bits, room = recipe.quantization.bits, _room(run.limit, body.bytes, device.type == "cuda")
    speed = run.shared.once("rates", lambda: rates(probed))
    found = forecast(empty, body, sites.roles, wanted, texts, share, speed, room, bits)
    return found.without(KNOWN) if run.shared.measured else found


def _room(limit: Limit | None, weights: int, cuda: bool) -> Room:
    """The memory that a run takes for weights and for activations at most."""
    used = 0 if cuda else resident()
    if limit is None:
        return Room(used)
    streamed = weights * HALF > limit.bytes
    return Room(used, limit.weights if streamed else weights, limit.activations)


def _texts(
    recipe: Recipe, model: Any, tokenizer: Any, material: Material, taught: Lesson | None
) -> Texts:
    """How long the texts are that the run reads."""
    if tokenizer is None:
        return Texts()
    longest, found = recipe.calibration.max_length or TEXT, Texts()
    if material.texts:
        batches = calibration.prepared(model, tokenizer, material.texts, longest, TOKENS)
        shapes = [batch.inputs["input_ids"].shape for batch in batches]
        length = max(columns for _, columns in shapes)
        found = replace(found, calibration=Text(sum(map(prod, shapes)), len(shapes), length))
    objective = objective_of(model)
    if objective == "clm":
        held = material.held if isinstance(material.held, str) else "\n".join(material.held)
        tokens = len(joined_ids(tokenizer, held, HELD_TOKENS + 1))
        read = Text(tokens, -(-tokens // AT_ONCE))
    else:
        read = _counted(tokenizer, material.held, longest)
    predicted = MASKED if objective == "mlm" else 1.0
    found = replace(found, held=read, samples=objective == "clm", predicted=predicted)
    if taught and taught.scored:
        found = replace(found, scored=_counted(tokenizer, texts_of(taught.scored), longest))
    if material.learned and recipe.recovery.steps:
        learned = (
            material.learned.length * (recipe.recovery.batch or AT_A_STEP) * recipe.recovery.steps
        )
        found = replace(found, learned=Text(learned, recipe.recovery.steps))
    elif taught and recipe.recovery.steps:
        each = _counted(tokenizer, taught.sentences[:SOME], longest).tokens
        tokens = each * (recipe.recovery.batch or BATCH) * recipe.recovery.steps
        learned = tokens // max(1, min(SOME, len(taught.sentences)))
        found = replace(found, learned=Text(learned, recipe.recovery.steps))
    return found


def _counted(tokenizer: Any, texts: Any, longest: int) -> Text:
    """The size of texts that are read one by one."""
    texts = [*texts]
    if not texts:
        return Text(0, 0)
    some = encode(tokenizer, texts[:SOME], max_length=longest)["input_ids"]
    tokens = sum(map(len, some)) * len(texts) // len(some)
    return Text(tokens, -(-len(texts) // ROWS))


def foreseen(run: Run, folder: Folder, empty: Any, costs: Costs, material: Material) -> Report:
    """The report of a dry run, which reads no weights. A rank is exact; of other budgets it says
    what is certain, and what they leave open. `empty` is changed."""
    recipe, wanted, bits = run.recipe, run.recipe.compression, run.recipe.quantization.bits
    warnings, weighed = [*material.warnings], bool(material.texts)
    parts: list[Part] = [provenance(recipe, folder, empty, None, sums=False)]
    draft, more = Draft(), list[Part]([Predicted(predicted=True)])
    if recipe.attention.kind:
        more = predicted(recipe, empty, warnings)
    if (wanted.rank, wanted.share, wanted.energy) == (None, None, None):
        parts += costs.and_after(empty)
    elif wanted.rank is not None:
        draft = planning.by_rank(check(empty, wanted, weighed, bits), *_by_rank(wanted))
        factorize(empty, draft.plan)
        parts += costs.and_after(empty, [*draft.plan, *draft.left_dense])
        warnings += left_out(empty, wanted.sites)
    else:
        sites = check(empty, wanted, weighed, bits)
        draft, found = _ranged(
            empty, costs, Open(sites, wanted, weighed), bool(recipe.attention.kind)
        )
        parts += found
        warnings += left_out(empty, wanted.sites)
    left = (LeftDense(site=site, reason=why) for site, why in draft.left_dense.items())
    parts += [Allocation(target=run.target)] if run.target else []
    parts += [material.part, Sites(sites=(), left_dense=tuple(left)), *more]
    return run.report(parts, warnings + draft.told)


def _by_rank(wanted: Compression) -> tuple[Any, ...]:
    return wanted.rank, wanted.method, wanted.overrides


def _ranged(empty: Any, costs: Costs, budget: Open, converted: bool) -> tuple[Draft, list[Part]]:
    """(sites that stay dense for certain, the figures of a budget of `keep` or `energy`).
    `converted`: whether the attention of the model has changed since its costs before."""
    ranges = budget.ranges()  # of the model before it is factorized
    smallest, size = budget.smallest(), count_parameters(empty)
    mlps = len(budget.sites.mlps) if budget.narrower else 0
    spans: dict[str, Any]
    if budget.wanted.share is None:
        least = copy.deepcopy(empty)
        factorize(least, smallest.plan)
        most = costs.and_after(empty) if converted else None
        spans = _spans(costs.and_after(least), most)
        parts, note = list[Part](), "after: between rank 1 and the dense weight at each site"
    else:
        even = budget.even()
        factorize(empty, even.plan)
        parts = costs.and_after(empty, [*budget.sites.roles])
        highest = size - sum(budget.sizes.values()) + budget.budget
        spans = {"parameters": Span(before=costs.before.total, most=highest)}
        note = "after: if every site keeps the same share"
        if budget.wanted.allocate == "greedy":
            note += "; the run spreads the parameters by what they save"
        if mlps:
            note += (
                f"; auto may make any of the {mlps} MLPs narrower instead, by as many parameters, "
                "and then these ranks are not theirs"
            )
    sites = [
        SiteRange(
            site=each.site,
            role=each.role,
            shape=each.shape,
            decomposition=each.method,
            least_rank=each.rank[0],
            most_rank=each.rank[1],
            least=each.parameters[0],
            most=each.parameters[1],
        )
        for each in ranges
    ]
    parts.append(Range(note=note, sites=tuple(sites), **spans))
    return Draft(left_dense=smallest.left_dense), parts


def _spans(least: list[Part], most: list[Part] | None) -> dict[str, Span]:
    """{figure: what it may be}, of costs at the least; at the most they are as before."""
    names = {Parameters: "parameters", Flops: "flops", WeightBytes: "weight_bytes"}
    found = {}
    for k, part in enumerate(least):
        low: Any = part
        high = low.before if most is None else most[k].after
        found[names[type(part)]] = Span(before=low.before, least=low.after, most=high)
    return found
