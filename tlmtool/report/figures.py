"""Figures as text: sizes, shares, forms, and the small table that a view of a report is."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
TEXT_COLUMNS = ("form", "why", "role", "chosen")  # and the first; the others are figures


class View(NamedTuple):
    """A table of text: the first column is names, the others are figures."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def human(value: Any, unit: str = "") -> str:
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


def figure(value: Any, digits: int = 3) -> str:
    """A share or an error: '0.320', '2.1e-07', '' for nothing."""
    if value is None or isinstance(value, str):
        return value or ""
    small = value and abs(value) < 10.0**-digits
    return f"{value:.1e}" if small else f"{value:.{digits}f}"


def share(after: Any, before: Any) -> str:
    """after / before as a figure, '' where it says nothing."""
    return figure(after / before) if before and after is not None else ""


def brief(sites: Iterable[str], roles: Mapping[str, str]) -> str:
    """'query 5, 1; up 2': the layers of sites by role, a whole path where it holds no number."""
    by_role: dict[str, list[str]] = {}
    for site in sites:
        by_role.setdefault(roles.get(site, ""), []).append(layer(site))
    return "; ".join(f"{role} {', '.join(found)}".strip() for role, found in by_role.items())


def layer(site: str) -> str:
    """'5' of encoder.layer.5.output.dense, 'decoder 5' in a decoder."""
    found = re.search(r"\.(\d+)\.", site)
    return ("decoder " if site.startswith("decoder.") else "") + found[1] if found else site


def form(decomposition: Mapping[str, Any]) -> str:
    """'btd rank 8 blocks 12'."""
    parts = [str(decomposition.get("name", "?"))]
    if parts == ["mpo"] and (modes := decomposition.get("modes")):
        ends = (f"[{side[0]},1^{len(side) - 2},{side[-1]}]" for side in modes)
        if all(each == 1 for side in modes for each in side[1:-1]):
            parts.append(" x ".join(ends))
    for key in ("rank", "blocks"):
        if key in decomposition:
            value = decomposition[key]
            parts.append(f"{key} {'full' if value is None else value}")
    return " ".join(parts)
