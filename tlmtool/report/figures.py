"""Figures as text: sizes, shares, decompositions, and the small tables of a report."""

import re
from collections.abc import Iterable, Mapping
from math import fsum
from typing import Any, NamedTuple

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# These columns and the first one are aligned to the left; all others hold figures.
TEXT_COLUMNS = ("decomposition", "why", "role", "chosen", "type", "unit", "meaning", "text")


class View(NamedTuple):
    """A table of text: the first column holds names, the others hold figures.

    Views with the same `joins` are shown as one table, under all of their titles.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    joins: str = ""


def human(value: float | None, unit: str = "") -> str:
    """'20.3 M', '5.43 GFLOPs', '81.3 MB'; three significant digits, '' for nothing."""
    if value is None:
        return ""
    for size, prefix in PREFIXES:
        if abs(value) >= size * 0.9995:
            scaled = value / size
            digits = max(0, 3 - len(str(int(abs(scaled) + 0.0005))))
            billions = prefix == "G" and not unit
            return f"{scaled:.{digits}f} {'B' if billions else prefix}{unit}"
    return f"{value:g} {unit}".strip()


def figure(value: float | None, digits: int = 3) -> str:
    """A share or an error: '0.320', '2.1e-07', '' for nothing."""
    if value is None:
        return ""
    small = value and abs(value) < 10.0**-digits
    return f"{value:.1e}" if small else f"{value:.{digits}f}"


def share(after: float | None, before: float | None) -> str:
    """after / before as a figure, '' where one of them is missing or `before` is 0."""
    return figure(after / before) if before and after is not None else ""


def mean(values: Iterable[float | None], digits: int = 3) -> str:
    """The mean of the values that are known, as a figure; '' where there is none."""
    known = [value for value in values if value is not None]
    return figure(fsum(known) / len(known), digits) if known else ""


def largest(values: Iterable[float | None]) -> str:
    """'2.1e-07', the largest of the values that are known; '' where there is none."""
    known = [value for value in values if value is not None]
    return f"{max(known):.1e}" if known else ""


def words(name: str) -> str:
    """'feature error' for feature_error."""
    return name.replace("_", " ")


def brief(sites: Iterable[str], roles: Mapping[str, str]) -> str:
    """'query 5, 1; up 2': the layers of sites by role; a site without a number in its path is
    shown by its whole path."""
    by_role: dict[str, list[str]] = {}
    for site in sites:
        by_role.setdefault(roles.get(site, ""), []).append(layer(site))
    return "; ".join(f"{role} {', '.join(found)}".strip() for role, found in by_role.items())


def layer(site: str) -> str:
    """'5' of encoder.layer.5.output.dense, 'decoder 5' in a decoder."""
    found = re.search(r"\.(\d+)\.", site)
    return ("decoder " if site.startswith("decoder.") else "") + found[1] if found else site


def described(decomposition: Mapping[str, Any]) -> str:
    """A decomposition in words: 'btd rank 8 blocks 12'."""
    parts = [str(decomposition.get("name", "?"))]
    if parts == ["mpo"] and (modes := decomposition.get("modes")):
        ends = (f"[{side[0]},1^{len(side) - 2},{side[-1]}]" for side in modes)
        if all(each == 1 for side in modes for each in side[1:-1]):
            parts.append(" x ".join(ends))
    if parts == ["narrow"]:
        return f"narrow {decomposition.get('rank')} of {decomposition.get('width')}"
    for key in ("rank", "blocks"):
        if key in decomposition:
            value = decomposition[key]
            parts.append(f"{key} {'full' if value is None else value}")
    return " ".join(parts)


def kernel(settings: Mapping[str, Any]) -> str:
    """An attention kernel in words: 'dimensionwise f cosine mixer 5'."""
    more = (f"{k} {v}" for k, v in settings.items() if k != "name" and v is not None)
    return " ".join([str(settings.get("name", "?")), *more])
