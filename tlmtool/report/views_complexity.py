"""What attention kernels alone cost, as small tables: a row for each length, then the exponents."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tlmtool.report.figures import View, figure, human
from tlmtool.report.views_attention import kernel


class Quantity(NamedTuple):
    """A thing that grows with N: what a run holds of it, and as text."""

    title: str
    of: Callable[[Mapping[str, Any]], float | None]
    text: Callable[[float | None], str]


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f} ms"


QUANTITIES = {  # by the key of the exponent
    "flops": Quantity("FLOPs (counted)", lambda run: run.get("flops"), lambda x: human(x, "FLOPs")),
    "time": Quantity(
        "time (measured, median)",
        lambda run: (run.get("latency_ms") or {}).get("median"),
        _milliseconds,
    ),
    "memory": Quantity(
        "memory (measured)", lambda run: run.get("peak_memory_bytes"), lambda x: human(x, "B")
    ),
}
MORE = {"time": {"  of processor time": "processor_time"}}  # exponents, below their own


def complexity_views(data: Mapping[str, Any]) -> list[View]:
    """The tables of the part `complexity` of a report."""
    found = data.get("complexity") or {}
    kernels = found.get("kernels") or {}
    made = []
    for key, quantity in QUANTITIES.items():
        cells: dict[int, list[str]] = {}
        for each in kernels.values():
            for run in each["runs"]:
                cells.setdefault(run["seq_len"], []).append(quantity.text(quantity.of(run)))
        rows = [[f"N = {n:,}", *texts] for n, texts in cells.items() if any(texts)]
        for label, name in {"exponent in N": key, **MORE.get(key, {})}.items():
            fitted = [figure(each["exponents"].get(name), 2) for each in kernels.values()]
            rows += [[label, *fitted]] if rows and any(fitted) else []
        made.append(View(quantity.title, ["", *kernels], rows))
    return made


def called(found: Mapping[str, Any]) -> str:
    """'forward, both ways, batch 1, 8 heads of width 64, float32, cpu with 1 thread'."""
    if not found:
        return ""
    threads = found.get("threads")
    count = f" with {threads} thread{'s' * (threads > 1)}" if threads else ""
    parts = [
        "forward and backward" if found["backward"] else "forward",
        "causal" if found["causal"] else "both ways",
        f"batch {found['batch']}",
        f"{found['heads']} heads of width {found['width']}",
        found["dtype"],
        f"{found['device']}{count}",
    ]
    return ", ".join(parts)


def forms(found: Mapping[str, Any]) -> str:
    """'dimensionwise kernels 1 f cosine mixer 0; multilinear ...': what each kernel was."""
    return "; ".join(kernel(each["form"]) for each in (found.get("kernels") or {}).values())


def power(exponent: float | None) -> str:
    """'N^1.98', '' for none."""
    return "" if exponent is None else f"N^{exponent:.2f}"
