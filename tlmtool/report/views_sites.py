"""What became of the sites as small tables: parameters by role, forms and errors, left dense."""

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from tlmtool.report.figures import View, figure, form, human, share

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


def site_views(data: Mapping[str, Any], full: bool) -> list[View]:
    """The tables of the sites of a report; `full`: every site on a row of its own."""
    sites, left = data.get("sites") or [], data.get("left_dense") or []
    return [_roles(data), _sites(sites, full), _dense(left, full)]


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
