"""The schema of a profile: of a model, of two side by side, or of attention kernels alone."""

from dataclasses import dataclass

from tlmtool.recipe.attention import attentions
from tlmtool.recipe.setting import setting

SOFTMAX = "softmax"  # the attention that the kernels stand in for
ALONE = "Attention kernels alone"


def _kernels() -> tuple[str, ...]:
    return (SOFTMAX, *attentions())


@dataclass(frozen=True)
class Profiling:
    """What a model costs, alone or beside another; or what kernels cost as the length grows."""

    seq_len: tuple[int, ...] = setting(
        (128,), "profile", "Lengths of texts in tokens, separated by commas", "N,N", ge=1
    )
    batch: int = setting(1, "profile", "Texts per batch", "N", ge=1)
    against: str | None = setting(
        None, "profile export", "Second model, shown side by side", "MODEL", reads="model"
    )
    latency: bool = setting(
        False, "profile", "Also measure the time of the forward pass (--attention always does)"
    )
    runs: int = setting(7, "profile export", "Timed runs of each measurement", "N", ge=1)
    attention: tuple[str, ...] = setting(
        (),
        "profile",
        f"Measure attention kernels instead of models, separated by commas: "
        f"{', '.join(_kernels())}. With MODEL they have its shape",
        "NAMES",
        panel=ALONE,
        choices=_kernels,
        optional=True,
    )
    heads: int | None = setting(
        None, "profile", "Number of heads", "H", panel=ALONE, ge=1, otherwise="MODEL's, or 8"
    )
    head_width: int | None = setting(
        None, "profile", "Width of a head", "D", panel=ALONE, ge=1, otherwise="MODEL's, or 64"
    )
    causal: bool = setting(
        False,
        "profile",
        "Hide later tokens, as in a decoder",
        panel=ALONE,
        otherwise="on where MODEL is a decoder",
    )
    backward: bool = setting(False, "profile", "Include the backward pass", panel=ALONE)
    plot: str | None = setting(
        None,
        "profile",
        "Draw FLOPs, time and memory by length, as .png, .pdf or .svg",
        "FILE",
        panel=ALONE,
        pattern=r"(?i)^.*[^/\\]\.(png|pdf|svg)$",
        what="a file that ends in .png, .pdf or .svg",
    )
