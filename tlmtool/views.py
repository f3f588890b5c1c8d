"""The data of a report as small tables and facts of text; the terminal and the card render them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from tlmtool.figures import View, figure, form, human, share
from tlmtool.views_attention import attention_views
from tlmtool.views_complexity import complexity_views
from tlmtool.views_training import training_views

MANY_SITES = 16  # above it the sites are shown by role
ERRORS = {  # key of a site's record: its column
    "weight_error": "weight",
    "svd_weight_error": "svd",
    "output_error": "output",
    "svd_output_error": "svd",
    "best_output_error": "best",
}
ERRORS_NOTE = (
    "weight, output: relative error of the factors against what they were fitted to, as a weight "
    "and as an output on the calibration text; svd: the same of a plain SVD with as many "
    "parameters; best: of an SVD weighted by the text"
)


def views(data: Mapping[str, Any], full: bool = False) -> list[View]:
    """The tables of a report, whichever parts it has; `full`: every site on a row of its own."""
    if data.get("stages"):
        return [_stages(data["stages"])]
    found = [_costs(data), _roles(data), _sites(data.get("sites") or [], full)]
    found += [_dense(data.get("left_dense") or [], full), _parity(data), _scores(data)]
    found += [*attention_views(data), _profile(data.get("models") or []), *complexity_views(data)]
    trained = training_views(data, full)
    found = trained + found if data.get("scores") else found + trained
    mark = ", ".join(filter(None, ["predicted", data.get("predicted_if")]))
    mark = f" ({mark})" if data.get("predicted") else ""
    return [_narrowed(view._replace(title=view.title + mark)) for view in found if view.rows]


def _stages(stages: Iterable[Mapping[str, Any]]) -> View:
    """A row for each stage of a pipeline: its size after, its score, its time."""
    rows = []
    for each in stages:
        size = (each.get("parameters") or {}).get("after")
        quality, scores = each.get("quality") or {}, each.get("scores") or {}
        recovery, models = each.get("recovery") or {}, each.get("models") or [{}]
        name, value = next(
            (
                (name, value)
                for name, value in (
                    (scores.get("name"), (scores.get("after") or {}).get("score")),
                    (recovery.get("metric"), recovery.get("recovered")),
                    (each.get("metric"), models[0].get("score")),
                    (quality.get("name"), quality.get("after")),
                )
                if value is not None
            ),
            ("", None),
        )
        seconds = sum((each.get("seconds") or {}).values())
        cells = [human(size), str(name).replace("_", " "), figure(value, 4), f"{seconds:.0f} s"]
        rows.append([each["name"], each["verb"], *cells])
    return View("stages", ["", "verb", "parameters", "metric", "score", "time"], rows, "")


def _narrowed(view: View) -> View:
    """The view without columns that are empty in every row."""
    kept = [i for i in range(len(view.header)) if i == 0 or any(row[i] for row in view.rows)]
    rows = [[row[i] for i in kept] for row in view.rows]
    return view._replace(header=[view.header[i] for i in kept], rows=rows)


def _costs(data: Mapping[str, Any]) -> View:
    parameters, flops = data.get("parameters") or {}, data.get("flops") or {}
    quality, rows = data.get("quality") or {}, []

    def row(label: str, before: Any, after: Any, unit: str = "") -> None:
        if before is not None or after is not None:
            cells = [human(before, unit), human(after, unit), share(after, before)]
            rows.append([label, *cells])

    row("parameters", parameters.get("before"), parameters.get("after"))
    row("  of the sites", parameters.get("sites_before"), parameters.get("sites_after"))
    row("FLOPs", flops.get("before"), flops.get("after"), "FLOPs")
    size = data.get("bytes") or {}
    row("bytes on disk", size.get("before"), size.get("after"), "B")
    if quality:
        before, after = quality.get("before"), quality.get("after")
        name = str(quality.get("name", "quality")).replace("_", " ")
        rows.append([name, figure(before, 4), figure(after, 4), share(after, before)])
    notes = [f"FLOPs: {flops['note']}" if flops.get("note") else ""]
    if quality.get("what"):
        notes.append(f"{quality.get('name', 'quality').replace('_', ' ')}: {quality['what']}")
    note = "\n".join(filter(None, notes))
    title = "cost and quality" if quality else "cost"
    return View(title, ["", "before", "after", "after / before"], rows, note)


def _roles(data: Mapping[str, Any]) -> View:
    parameters = data.get("parameters") or {}
    by_role = parameters.get("by_role") or {}
    rows = [
        [
            role,
            str(part.get("sites", "")),
            human(part.get("before")),
            human(part.get("after")),
            share(part.get("after"), part.get("before")),
        ]
        for role, part in by_role.items()
    ]
    held = "growth" if "growth" in parameters else "keep"
    return View("parameters by role", ["role", "sites", "before", "after", held], rows)


def _sites(sites: list[Mapping[str, Any]], full: bool) -> View:
    if full or len(sites) <= MANY_SITES:
        header = ["site", "form", "keep", *ERRORS.values()]
        rows = [
            [
                str(each.get("site", "")),
                form(each.get("decomposition") or {}),
                figure(each.get("keep")),
                *(figure(each.get(key)) for key in ERRORS),
            ]
            for each in sites
        ]
        return View("factorized sites", header, rows, ERRORS_NOTE)
    by_role: dict[str, list[Mapping[str, Any]]] = {}
    for each in sites:
        by_role.setdefault(str(each.get("role", "")), []).append(each)
    header = ["role", "sites", "form", "keep", *ERRORS.values()]
    rows = []
    for role, group in by_role.items():
        errors = [_mean(_known(group, key)) for key in ERRORS]
        rows.append([role, str(len(group)), _forms(group), _kept(group), *errors])
    note = f"means over the sites of a role, -v lists each site; {ERRORS_NOTE}"
    return View("factorized sites by role", header, rows, note)


def _known(group: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [each[key] for each in group if each.get(key) is not None]


def _mean(values: list[float]) -> str:
    return figure(fmean(values)) if values else ""


def _kept(group: list[Mapping[str, Any]]) -> str:
    """The share kept of a group: of all its parameters where they are known."""
    held = [(e.get("parameters"), e.get("shape")) for e in group]
    if all(parameters is not None and shape for parameters, shape in held):
        return share(sum(p for p, _ in held), sum(o * i for _, (o, i) in held))
    return _mean(_known(group, "keep"))


def _forms(group: list[Mapping[str, Any]]) -> str:
    """The one form, or how many have which: 'btd 5, svd 3'."""
    forms = [each.get("decomposition") or {} for each in group]
    if len(same := {form(each) for each in forms}) == 1:
        return same.pop()
    names = Counter(str(each.get("name", "?")) for each in forms)
    if len(names) > 1:
        return ", ".join(f"{name} {count}" for name, count in names.most_common())
    ranks = [each["rank"] for each in forms if isinstance(each.get("rank"), int)]
    return next(iter(names)) + (f" rank {min(ranks)}-{max(ranks)}" if ranks else "")


def _dense(left: list[Mapping[str, Any]], full: bool) -> View:
    reasons: dict[str, list[str]] = {}
    for each in left:
        reasons.setdefault(str(each.get("reason", "")), []).append(str(each.get("site", "")))
    rows = []
    for reason, sites in reasons.items():
        shown = sites if full else sites[:1]
        more = f" and {len(sites) - 1} more" if len(shown) < len(sites) else ""
        rows.append([f"{', '.join(shown)}{more}", reason])
    return View("left dense", ["site", "why"], rows)


def _parity(data: Mapping[str, Any]) -> View:
    names = {"max_abs": "largest difference", "relative": "relative to the largest output"}
    parity = data.get("parity") or {}
    rows = []
    for key, value in parity.items():
        text = f"{value:.1e}" if isinstance(value, float) else str(value)
        rows.append([names.get(key, key.replace("_", " ")), text])
    kept = ((data.get("recipe") or {}).get("strategy") or {}).get("no_merge")
    held = "larger against before" if data.get("step") else "merged against factorized"
    held = "saved with its cores against trained" if kept else held
    return View(f"parity: {held}", ["", "figure"], rows)


def _scores(data: Mapping[str, Any]) -> View:
    if "task" not in data:
        return View("", [], [])
    baseline = data.get("baseline") or {}
    parts = [name for name in str(data.get("metric")).split(" and ") if name != data.get("metric")]
    rows = [
        [
            str(each.get("id", "")) + (" (baseline)" if each is baseline else ""),
            figure(each.get("score"), 2 if data.get("metric") == "BLEU" else 4),
            *(figure(each.get(name), 4) for name in parts),
            figure(each.get("loss"), 4),
            figure(each.get("perplexity"), 2),
            str(each.get("beams", "")),
            f"{each['n']:,}" if "n" in each else "",
        ]
        for each in [*(data.get("models") or []), *([baseline] if "score" in baseline else [])]
    ]
    better = f", {data['better']} is better" if data.get("better") else ""
    metric = str(data.get("metric", "score")).replace("_", " ")
    header = [
        "model",
        "score" if parts else metric,
        *parts,
        "loss",
        "perplexity",
        "beams",
        "examples",
    ]
    note = f"{metric}: {data['what']}{better}" if data.get("what") else ""
    return View(f"task {data['task']}", header, rows, note)


def _profile(models: list[Mapping[str, Any]]) -> View:
    """Each model a column, and the second over the first where there are two."""
    if not any("parameters" in each for each in models):
        return View("", [], [])
    quantities: dict[str, dict[int, tuple[float, str]]] = {}

    def note(label: str, column: int, value: Any, text: str) -> None:
        if value is not None:
            quantities.setdefault(label, {})[column] = (value, text)

    for column, model in enumerate(models):
        note("parameters", column, model.get("parameters"), human(model.get("parameters")))
        for role, count in (model.get("by_role") or {}).items():
            note(f"  {role}", column, count, human(count))
        note("bytes", column, model.get("bytes"), human(model.get("bytes"), "B"))
        for run in model.get("runs") or []:
            at = f"{run.get('batch', 1)} x {run.get('seq_len', '?')}"
            note(f"FLOPs {at}", column, run.get("flops"), human(run.get("flops"), "FLOPs"))
            for part, count in (run.get("by_part") or {}).items():
                note(f"  {part}, {at}", column, count, human(count, "FLOPs"))
            latency = run.get("latency_ms")
            median = latency.get("median") if isinstance(latency, Mapping) else latency
            note(f"latency {at}", column, median, f"{median or 0:.2f} ms")
            peak = run.get("peak_memory_bytes")
            note(f"peak memory {at}", column, peak, human(peak, "B"))
    rows = []
    for label, cells in quantities.items():
        ratio = share(cells[1][0], cells[0][0]) if len(models) == 2 and len(cells) == 2 else ""
        rows.append([label, *(cells.get(i, (0, ""))[1] for i in range(len(models))), ratio])
    header = ["", *(str(each.get("id", "?")) for each in models), "ratio"]
    return View("profile", header, rows)
