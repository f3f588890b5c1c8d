"""What a conversion of attention did as small tables: each layer, and what was chosen."""

from collections.abc import Mapping
from typing import Any

from tlmtool.report.figures import View, figure, human


def attention_views(data: Mapping[str, Any]) -> list[View]:
    """The tables of the part `attention` of a report, and the quality at each stage."""
    found = data.get("attention") or {}
    return [_layers(found), _alone(found), _stages(data, found)]


def kernel(form: Mapping[str, Any]) -> str:
    """'dimensionwise f cosine mixer 5'."""
    parts = [str(form.get("name", "?"))]
    for key, value in form.items():
        if key != "name" and value is not None:
            parts.append(f"{key} {value}")
    return " ".join(parts)


def _layers(found: Mapping[str, Any]) -> View:
    rows = []
    for each in found.get("layers") or []:
        counts = each.get("parameters") or {}
        cells = [human(counts.get("before")), human(counts.get("after"))]
        rows.append([each["site"], *cells, figure(each.get("output_error"))])
    forms = {kernel(each["attention"]) for each in found.get("layers") or []}
    note = (
        f"{'; '.join(sorted(forms))}; parameters with the output projection; output error: "
        "relative, of the output map fitted by least squares to what the dense layer gives on the "
        "calibration text; of w_o full on texts of it that were held out of the fit"
    )
    fitted = any(each.get("output_error") is not None for each in found.get("layers") or [])
    note = note if fitted else "; ".join(sorted(forms))
    return View("converted attention", ["", "before", "after", "output error"], rows, note)


def _alone(found: Mapping[str, Any]) -> View:
    rows = [
        [each["site"], f"{each['increase']:+.4f}", _signed(each.get("together"))]
        for each in found.get("alone") or []
    ]
    note = "growth of the loss (of a model without one: feature error), least sensitive first"
    return View("sensitivity", ["", "alone", "with those above"], rows, note)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _stages(data: Mapping[str, Any], found: Mapping[str, Any]) -> View:
    """The quality before, after the conversion, and at the end where more came after it."""
    quality = data.get("quality") or {}
    if "quality" not in found or found["quality"] == quality.get("after"):
        return View("", [], [])
    names = ("before", "converted", "at the end")
    values = (quality.get("before"), found["quality"], quality.get("after"))
    rows = [[n, figure(v, 4)] for n, v in zip(names, values, strict=True)]
    name = str(quality.get("name", "quality")).replace("_", " ")
    return View("stages", ["", name], rows)
