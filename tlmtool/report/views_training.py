"""What a training did as small tables: its score, its course, what it over-parameterized."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from tlmtool.report.figures import View, figure, form, human, layer

SAID = ("score", "signature", "beams")  # elsewhere than in a row of its own
COARSE = ("BLEU", "perplexity")


def training_views(data: Mapping[str, Any], full: bool = False) -> list[View]:
    """The tables of a report of finetune; `full`: every expanded matrix on a row of its own."""
    if data.get("study"):
        return _study(data["study"])
    if data.get("cost"):
        return [_cost(data["cost"])]
    if data.get("step"):
        return [_step(data["step"]), _larger(data.get("expanded") or [], full)]
    scores = data.get("scores") or {}
    if not scores:
        return [_recovery(data.get("recovery") or {})]
    found = [_score(data, scores), _course(data.get("training") or {}, scores)]
    return [*found, _selections(data), _expansions(data.get("expansions") or [], full)]


def _score(data: Mapping[str, Any], scores: Mapping[str, Any]) -> View:
    """Each metric before, where there is one, and after."""
    before, after = scores.get("before") or {}, scores.get("after") or {}
    training, names = data.get("training") or {}, [n for n in after if n not in SAID]
    labels = {name: name for name in names} if names else {"score": str(scores.get("name"))}
    if len(names) > 1 and scores.get("name") not in names:
        labels["score"] = "score, their mean"
    rows = [
        [label, *(figure(each.get(key), 2 if key in COARSE else 4) for each in (before, after))]
        for key, label in labels.items()
    ]
    unit = training.get("unit", "examples")
    note = (
        f"{training.get('steps', 0):,} steps of {training.get('batch')} of "
        f"{training.get('examples', 0):,} {unit}, rate {training.get('lr', 0):g}, strategy "
        f"{training.get('strategy')}; scored on {training.get('dev', 0):,} development {unit}, "
        f"{scores.get('better')} is better"
    )
    if processes := training.get("processes"):
        way = "FSDP, in shards" if training.get("sharded") else "DDP"
        note += f"; {processes} processes ({way})"
    if taught := training.get("taught"):
        note += f"; the teacher's {taught} are learned"
    if "signature" in after:
        note += f"; beams {after.get('beams')}, sacrebleu {after['signature']}"
    return View(f"task {training.get('task')}", ["", "before", "after"], rows, note)


def _recovery(recovery: Mapping[str, Any]) -> View:
    """The score of the dense, the compressed and the recovered model."""
    if not recovery:
        return View("", [], [])
    kinds = ("dense", "compressed", "recovered")
    what = "all weights" if recovery.get("trained") == "all" else "factors only"
    rows = [[kind, figure(recovery[kind], 4)] for kind in kinds]
    note = (
        f"{recovery['steps']:,} steps of distilling the dense model on {recovery['sentences']:,} "
        f"sentences of {recovery['data']}, {what}; {recovery['metric']} of "
        f"{recovery['scored_on']}, {recovery['better']} is better"
    )
    return View("recovery", ["", recovery["metric"]], rows, note)


def _study(study: Mapping[str, Any]) -> list[View]:
    """Each arm, and each pair of arms."""
    rows = [
        [
            each["arm"],
            *(figure(each[key], 4) for key in ("mean", "deviation")),
            " ".join(figure(score, 4) for score in each["scores"]),
        ]
        for each in study["arms"]
    ]
    first, ratios = (
        study["results"][0],
        [r["step_ratio"] for r in study["results"] if "step_ratio" in r],
    )
    note = f"{first['metric']}, {first['better']} is better; {first['steps']:,} steps in all, rate "
    note += f"{study['lr']:g}" + (f", step ratio {fmean(ratios):.2f}" if ratios else "")
    arms = View("arms", ["", "mean", "deviation", "of each seed"], rows, note)
    rows = []
    for pair in study["pairs"]:
        low, high = pair["interval"] or (None, None)
        cells = [
            f"{pair['difference']:+.4f}",
            f"[{low:+.4f}, {high:+.4f}]" if low is not None else "",
        ]
        cells += [figure(pair.get("p_holm")), pair["verdict"]]
        rows.append([f"{pair['first']} - {pair['second']}", *cells])
    note = (
        "interval: paired t over seeds, 95 % for that pair alone; p: of the paired t test, by "
        f"Holm's correction over {len(rows)} pairs; the verdict is by p: where no arms differ, at "
        "most 5 % of studies say of any pair that they do"
    )
    header = ["", "difference", "interval", "p (Holm)", "verdict"]
    return [arms, View("differences", header, rows, note)]


def _cost(cost: Mapping[str, Any]) -> View:
    """What each arm of a study will cost."""
    rows = [
        [row["arm"], str(row["runs"]), *(human(row[k], "FLOPs") for k in ("step_flops", "flops"))]
        for row in cost["rows"]
    ]
    rows.append(["in all", str(cost["runs"]), "", human(cost["flops"], "FLOPs")])
    return View("study", ["", "trainings", "a step", "in all"], rows, str(cost["note"]))


def _step(step: Mapping[str, Any]) -> View:
    """What training will cost, with and without the larger matrices."""
    labels = {"parameters": ("parameters", ""), "optimizer_bytes": ("moments of AdamW", "B")}
    labels["step_flops"] = ("FLOPs of a step", "FLOPs")
    rows = []
    for key, (label, unit) in labels.items():
        before, after = step[key]["before"], step[key]["after"]
        cells = [human(before, unit), human(after, unit), figure(after / before)]
        rows.append([label, *cells])
    return View("training", ["", "before", "after", "after / before"], rows, str(step["note"]))


def _larger(expanded: list[Mapping[str, Any]], full: bool) -> View:
    """The larger matrices, by role and form, and how exactly they hold W."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in expanded:
        key = str(each["site"] if full else f"{each['role']} {form(each['decomposition'])}")
        groups.setdefault(key, []).append(each)
    rows = [
        [
            str(group[0]["site"] if full else group[0]["role"]),
            str(len(group)),
            form(group[0]["decomposition"]),
            _mean(each["growth"] for each in group),
            _largest(each.get("max_abs") for each in group),
        ]
        for group in groups.values()
    ]
    header = ["role", "matrices", "form", "growth", "max |dW|"]
    return View("larger matrices", header, rows, "")


def _course(training: Mapping[str, Any], scores: Mapping[str, Any]) -> View:
    """Each evaluation on the way."""
    name = str(training.get("metric") or scores.get("name") or "score")
    rows = [
        [f"step {each['step']}", figure(each["loss"], 4), figure(each.get("score"), 4)]
        for each in training.get("history") or []
    ]
    watched = training.get("watched")
    note = f"loss: mean of what was seen since the last row; {name}: on {watched}"
    note = note if watched else ""
    if chosen := training.get("chosen_step"):
        note += f"; kept: the model of step {chosen}"
    return View("on the way", ["", "loss", name], rows, note)


def _selections(data: Mapping[str, Any]) -> View:
    """The layers chosen at each selection, by role, most important first."""
    rows = []
    for entry in data.get("selections") or []:
        by_role: dict[str, list[str]] = {}
        for site in entry["chosen"]:
            told = f"{layer(site)} ({entry['scores'][site]:.2g})"
            by_role.setdefault(entry["roles"][site], []).append(told)
        for role, sites in by_role.items():
            rows.append([f"step {entry['step']}", role, ", ".join(sites)])
    note = f"chosen: layers, in brackets their importance{_kind(data)}"
    return View("selections", ["", "role", "chosen"], rows, note)


def _kind(data: Mapping[str, Any]) -> str:
    strategy = (data.get("recipe") or {}).get("strategy") or {}
    static = strategy.get("name") == "static"
    kind = strategy.get("importance") or ("zero-out" if static else "taylor")
    summed = kind != "zero-out" and not static
    return f" ({kind}{', summed over the steps since the last selection' if summed else ''})"


def _expansions(expansions: list[Mapping[str, Any]], full: bool) -> View:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in expansions:
        key = str(each["site"] if full else f"{each['role']} {form(each['decomposition'])}")
        groups.setdefault(key, []).append(each)
    rows = []
    for group in groups.values():
        first = group[0]
        updates = [u for each in group for u in each["first_update"].values()]
        rows.append(
            [
                str(first["site"] if full else first["role"]),
                str(len(group)),
                form(first["decomposition"]),
                *(_mean(each[key] for each in group) for key in ("growth", "step_ratio")),
                f"{min(updates):.1e}" if updates else "",
                _largest(each.get("max_abs") for each in group),
            ]
        )
    header = ["role", "matrices", "form", "growth", "step ratio", "least update", "max |dW|"]
    note = (
        "step ratio: how far an AdamW step on the cores moves W over one on W itself, at one rate, "
        "on the gradient at expansion; least update: the smallest norm of a core's first step; max "
        "|dW|: of the expansion"
    )
    return View("over-parameterized matrices", header, rows, note)


def _largest(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.1e}" if known else ""


def _mean(values: Iterable[float]) -> str:
    return figure(fmean(values), 2)
