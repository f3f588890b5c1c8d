"""The data of a report as small tables and facts of text; the terminal and the card render them."""

from collections.abc import Iterable, Mapping
from typing import Any

from tlmtool.report.figures import View, figure, human, share
from tlmtool.report.views_attention import attention_views
from tlmtool.report.views_complexity import complexity_views
from tlmtool.report.views_sites import site_views
from tlmtool.report.views_training import training_views


def views(data: Mapping[str, Any], full: bool = False) -> list[View]:
    """The tables of a report, whichever parts it has; `full`: every site on a row of its own."""
    if data.get("stages"):
        return [_stages(data["stages"])]
    found = [_costs(data), *site_views(data, full), _parity(data), _scores(data)]
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
