"""The part `complexity` of a report: what attention kernels alone cost as the text grows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from tlmtool.report.figures import View, figure, human, kernel
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Latency


@dataclass(frozen=True, kw_only=True)
class KernelPass:
    """One pass of a kernel at one length."""

    seq_len: int = entry("length N of the text", "tokens")
    flops: int = entry("operations of the pass, counted", "FLOPs")
    latency_ms: Latency = entry("time of the pass, measured")
    peak_memory_bytes: int | None = entry(
        "most memory that is allotted at once; null where it cannot be measured", "bytes"
    )


@dataclass(frozen=True, kw_only=True)
class Exponents:
    """p of the power law N^p that fits a quantity best; null for a single length."""

    flops: float | None = entry("of the operations")
    time: float | None = entry("of the median time")
    processor_time: float | None = entry("of the processor time, on a CPU")
    memory: float | None = entry("of the memory")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What one kernel costs."""

    attention: dict[str, Any] = entry("name and settings of the kernel")
    exponents: Exponents = entry("how its costs grow with the length")
    runs: tuple[KernelPass, ...] = entry("a pass at each length", count="lengths")


@dataclass(frozen=True, kw_only=True)
class Complexity(Part):
    """The costs of attention kernels alone, at several lengths."""

    key: ClassVar[str] = "complexity"
    verbs: ClassVar = {"profile": "kernels"}

    heads: int = entry("number of heads H")
    width: int = entry("width D of a head")
    features: int = entry("width E of the model")
    batch: int = entry("number of texts")
    causal: bool = entry("whether a token sees earlier tokens only")
    backward: bool = entry("whether the backward pass is included")
    dtype: str = entry("type of the numbers")
    device: str = entry("what it was measured on")
    runs: int = entry("number of timed runs at each length")
    threads: int | None = entry("threads of the CPU", optional=True)
    kernels: dict[str, Kernel] = entry("each kernel by its name", names="kernels")

    def called(self) -> str:
        """'forward, both ways, batch 1, 8 heads of width 64, float32, cpu with 1 thread'."""
        count = f" with {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        return ", ".join(
            [
                "forward and backward" if self.backward else "forward",
                "causal" if self.causal else "both ways",
                f"batch {self.batch}",
                f"{self.heads} heads of width {self.width}",
                self.dtype,
                f"{self.device}{count}",
            ]
        )

    def described(self) -> str:
        """'dimensionwise kernels 1 f cosine mixer 0; multilinear ...': what each kernel was."""
        return "; ".join(kernel(each.attention) for each in self.kernels.values())

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        return [("measured", self.called()), ("kernels", self.described())]

    def views(self, report: Document, full: bool) -> list[View]:
        return [_table(self, name, quantity) for name, quantity in QUANTITIES.items()]


class Quantity(NamedTuple):
    """A quantity that grows with N: what a pass holds of it, and the same as text."""

    title: str
    of: Callable[[KernelPass], float | None]
    text: Callable[[float | None], str]


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f} ms"


QUANTITIES = {  # by the name of the exponent
    "flops": Quantity("FLOPs (counted)", lambda run: run.flops, lambda x: human(x, "FLOPs")),
    "time": Quantity("time (measured, median)", lambda run: run.latency_ms.median, _milliseconds),
    "memory": Quantity(
        "memory (measured)", lambda run: run.peak_memory_bytes, lambda x: human(x, "B")
    ),
}
MORE = {"time": {"  of processor time": "processor_time"}}  # further exponents of a quantity


def _table(found: Complexity, name: str, quantity: Quantity) -> View:
    """A quantity of each kernel, a row for each length, then the exponents."""
    cells: dict[int, list[str]] = {}
    for each in found.kernels.values():
        for run in each.runs:
            cells.setdefault(run.seq_len, []).append(quantity.text(quantity.of(run)))
    rows = [[f"N = {n:,}", *texts] for n, texts in cells.items() if any(texts)]
    for label, exponent in {"exponent in N": name, **MORE.get(name, {})}.items():
        fitted = [figure(getattr(e.exponents, exponent), 2) for e in found.kernels.values()]
        rows += [[label, *fitted]] if rows and any(fitted) else []
    return View(quantity.title, ["", *found.kernels], rows)


def power(exponent: float | None) -> str:
    """'N^1.98', '' for none."""
    return "" if exponent is None else f"N^{exponent:.2f}"
