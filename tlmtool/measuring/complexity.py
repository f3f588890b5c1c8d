"""FLOPs, time and memory of attention kernels alone as N grows, and their exponents in N."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from tlmtool.attention import Attention
from tlmtool.attention.base import Tensors
from tlmtool.failure import Usage
from tlmtool.measuring.counting import CONVENTION
from tlmtool.measuring.outputs import counted
from tlmtool.measuring.passes import WARM_UP, Work, in_turns, one_pass, peak

Progress = Callable[[int, int], None]
WAITED = 1.25  # ratio of clock time to processor time above which a warning is given
NOTE = (
    "kernels alone, from q, k, v to what the output projection takes (past it, where a kernel has "
    f"an output map of its own); {CONVENTION}, counted, not measured; memory: the most that one "
    "pass allots at once, its result included; exponents: least squares through the logarithms of "
    "all lengths"
)


@dataclass(frozen=True)
class Softmax(Attention):
    """What the kernels replace: torch's fused `scaled_dot_product_attention`."""

    reference = "Vaswani et al. 2017 (Attention Is All You Need)"

    @property
    def name(self) -> str:
        return "softmax"

    def shapes(self, heads: int, width: int, features: int) -> dict[str, tuple[int, ...]]:
        return {}

    def initial(self, heads: int, width: int, features: int) -> Tensors:
        return {}

    def apply(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        mask = None if real is None else real[:, None, None]
        out = scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return out.transpose(1, 2).flatten(2)

    def flops(
        self, batch: int, heads: int, length: int, width: int, features: int, causal: bool
    ) -> int:
        """Two products over all pairs of tokens, also where a causal mask hides half of them."""
        return 2 * 2 * batch * heads * length**2 * width

    def to_dict(self) -> dict:
        return {"name": self.name, "by": scaled_dot_product_attention.__name__}


class Case(NamedTuple):
    """How the kernels are called: H, D and E of the model, B, and the device."""

    heads: int = 8
    width: int = 64
    features: int = 512
    batch: int = 1
    causal: bool = False
    backward: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    def work(self, kernel: Attention, length: int) -> Work:
        """One pass of a kernel at N. q, k and v lie in memory as projections give them, as
        (B, N, H, D). The learned tensors have their initial values."""
        torch.manual_seed(0)
        heads, width = kernel.heads(self.heads, self.width)
        shape, made = (self.batch, length, heads, width), {"device": self.device}
        drawn = (torch.randn(shape, dtype=self.dtype, **made) for _ in range(3))
        qkv = [x.transpose(1, 2).requires_grad_(self.backward) for x in drawn]
        tensors = {
            name: t.to(dtype=self.dtype, **made).requires_grad_(self.backward)
            for name, t in kernel.initial(heads, width, self.features).items()
        }

        def call() -> Tensor:
            return kernel.apply(*qkv, tensors, causal=self.causal)

        return one_pass(call, [*qkv, *tensors.values()], self.backward)

    def flops(self, kernel: Attention, length: int) -> int:
        """The kernel's own count of a forward pass. With a backward pass, what torch counts on the
        meta device; for softmax 7 products, as the fused kernel computes the scores again."""
        heads, width = kernel.heads(self.heads, self.width)
        shape = self.batch, heads, length, width
        forward = kernel.flops(*shape, self.features, self.causal)
        if not self.backward:
            return forward
        if isinstance(kernel, Softmax):
            return forward // 2 * 7
        kept = {"device": "meta", "requires_grad": True}
        qkv = [torch.empty(shape, **kept) for _ in range(3)]
        shapes = kernel.shapes(heads, width, self.features).items()
        tensors = {name: torch.empty(each, **kept) for name, each in shapes}
        with FlopCounterMode(display=False) as counter:
            out = kernel.apply(*qkv, tensors, causal=self.causal)
            unseen = forward - counter.get_total_flops()  # elementwise work of a mixer
            torch.autograd.grad(out, [*qkv, *tensors.values()], torch.ones_like(out))
        return counter.get_total_flops() + 3 * unseen


def exponent(xs: Sequence[float], ys: Sequence[float | None]) -> float | None:
    """p of the power law y = a x^p that fits best, by least squares in the logarithms. None for a
    single x, or where a y is not above 0.

    >>> round(exponent([1, 2, 4, 8], [3, 12, 48, 192]), 6)
    2.0
    """
    if len(set(xs)) < 2 or not all(ys):
        return None
    xs, ys = [log(x) for x in xs], [log(y) for y in ys]
    middle, level = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True))
    return rise / sum((x - middle) ** 2 for x in xs)


def check(kernels: Mapping[str, Attention], lengths: Sequence[int], case: Case) -> None:
    """Raises Usage, before anything is measured, for a kernel that the case or a length does not
    fit."""
    for name, kernel in kernels.items():
        if case.causal and not kernel.causal:
            chosen = ", ".join(f"{k} {v}" for k, v in kernel.to_dict().items() if k != "name")
            raise Usage(f"{name} with {chosen} sees later tokens: it cannot be causal")
        try:
            kernel.check_length(max(lengths))
            kernel.shapes(*kernel.heads(case.heads, case.width), case.features)
        except ValueError as error:
            raise Usage(f"{name}: {error}") from None


def complexity(
    kernels: Mapping[str, Attention],
    lengths: Sequence[int],
    case: Case,
    runs: int = 7,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """What each kernel costs at each length, {"kernels": {name: {"attention", "runs": [{"seq_len",
    "flops", "latency_ms", "peak_memory_bytes"}], "exponents": {"flops", "time", "processor_time",
    "memory"}}}, ...}. There is processor time on a CPU only.

    The kernels take turns at each length; `tell` is given its times once it is done. An exponent is
    fitted over all lengths, and is None for a single length.
    """
    lengths = sorted(set(lengths))
    check(kernels, lengths, case)
    passes = 1 + WARM_UP + runs
    tick = counted(progress, len(lengths) * len(kernels) * passes)
    found = {
        name: {"attention": kernel.to_dict(), "exponents": {}, "runs": []}
        for name, kernel in kernels.items()
    }
    for n in lengths:
        works, peaks = {name: case.work(kernel, n) for name, kernel in kernels.items()}, {}
        for name, work in works.items():
            peaks[name] = peak(work, case.device)
            if tick:
                tick(1)
        times = in_turns(works, runs, case.device, tick)
        for name, kernel in kernels.items():
            run = {"seq_len": n, "flops": case.flops(kernel, n), "latency_ms": times[name]}
            found[name]["runs"].append(run | {"peak_memory_bytes": peaks[name]})
        if tell:
            medians = (f"{name} {ms['median']:.3g} ms" for name, ms in times.items())
            tell(f"N = {n}: {', '.join(medians)}")
    for each in found.values():
        each["exponents"] = _exponents(each["runs"], case.device.type == "cpu")
    return {**_called(case, runs), "kernels": found}


def _exponents(runs: list[dict[str, Any]], on_cpu: bool) -> dict[str, float | None]:
    """The exponent of each quantity over all lengths of a kernel."""
    values = {
        "flops": [run["flops"] for run in runs],
        "time": [run["latency_ms"]["median"] for run in runs],
        "processor_time": [run["latency_ms"]["cpu"] for run in runs] if on_cpu else None,
        "memory": [run["peak_memory_bytes"] for run in runs],
    }
    ns = [run["seq_len"] for run in runs]
    return {key: None if ys is None else exponent(ns, ys) for key, ys in values.items()}


def waiting(found: Mapping[str, Any]) -> list[str]:
    """A warning where other work on the machine slowed a kernel of `complexity` down: a pass took
    much longer than all its threads worked, so that the time by the clock says little."""
    if found["device"] != "cpu":
        return []
    seen = [
        (run["latency_ms"]["median"], run["latency_ms"]["cpu"], name, run["seq_len"])
        for name, each in found["kernels"].items()
        for run in each["runs"]
    ]
    took, worked, name, n = max(seen, key=lambda each: each[0] / max(each[1], 1e-9))
    if took <= WAITED * worked:
        return []
    return [
        f"other work held the processor: {name} at N = {n} took {took:.3g} ms and worked "
        f"{worked:.3g} ms of them; trust processor time, or measure again"
    ]


def _called(case: Case, runs: int) -> dict[str, Any]:
    """The case as plain values."""
    cuda = case.device.type == "cuda"
    where = {"device": torch.cuda.get_device_name(case.device) if cuda else case.device.type}
    if case.device.type == "cpu":
        where["threads"] = torch.get_num_threads()
    dtype = str(case.dtype).removeprefix("torch.")
    return {**case._asdict(), "dtype": dtype, **where, "runs": runs}
