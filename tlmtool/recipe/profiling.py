"""The schema of a profile: of a model, of two side by side, or of attention kernels alone."""

from dataclasses import dataclass

from tlmtool.recipe.attention import attentions
from tlmtool.recipe.setting import setting

SOFTMAX = "softmax"  # the attention that the kernels stand in for


def _kernels() -> tuple[str, ...]:
    return (SOFTMAX, *attentions())


@dataclass(frozen=True)
class Profiling:
    """What a model costs, alone or beside another; or what kernels cost as the length grows."""

    seq_len: tuple[int, ...] = setting((128,), "profile", "lengths, by comma", "N,N", ge=1)
    batch: int = setting(1, "profile", "texts in a batch", "N", ge=1)
    latency: bool = setting(False, "profile", "also time the forward pass (kernels always are)")
    runs: int = setting(7, "profile", "timed runs of --latency and of --attention", "N", ge=1)
    against: str | None = setting(None, "profile", "a second model, side by side", "MODEL")
    attention: tuple[str, ...] = setting(
        (),
        "profile",
        f"kernels alone, by comma: {', '.join(_kernels())}; shaped as MODEL's, if given",
        "NAMES",
        choices=_kernels,
        optional=True,
    )
    heads: int | None = setting(
        None, "profile", "heads of --attention; of themselves MODEL's, or 8", "H", ge=1
    )
    head_width: int | None = setting(
        None, "profile", "width of a head of --attention; of itself MODEL's, or 64", "D", ge=1
    )
    causal: bool = setting(
        False, "profile", "--attention as in a decoder (of itself where MODEL is one)"
    )
    backward: bool = setting(False, "profile", "--attention with its backward pass")
    plot: str | None = setting(
        None,
        "profile",
        "draw FLOPs, time and memory of --attention by length",
        "FILE",
        pattern=r"(?i)^.*[^/\\]\.(png|pdf|svg)$",
        what="a file that ends in .png, .pdf or .svg",
    )
