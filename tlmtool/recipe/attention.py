"""The schema of tensor attention: which kernel takes the place of softmax attention, and where."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tlmtool.recipe.setting import setting, settings_of

BUILD = "compress finetune"  # the verbs that put kernels into a model
CHOICE = f"{BUILD} profile"  # and the one that measures them alone


@lru_cache
def attentions() -> tuple[str, ...]:
    """The kernels there are, read off the folder without importing it."""
    files = sorted((Path(__file__).parents[1] / "attention").glob("[!_]*.py"))
    return tuple(file.stem for file in files if file.stem != "base")


@dataclass(frozen=True)
class Attending:
    """A kernel, its choices, and the layers that it goes to. A choice that is not given is the
    kernel's own."""

    kind: str | None = setting(
        None,
        BUILD,
        "mix tokens by dimensionwise or multilinear instead of softmax attention",
        "NAME",
        "attention",
        choices=attentions,
    )
    rank: int | None = setting(
        None, CHOICE, "R of a block (multilinear), or of W (dimensionwise)", "R",
        "attention-rank", ge=1,
    )  # fmt: skip
    blocks: int | None = setting(
        None, CHOICE, "blocks of multilinear, each with projections of its own", "P",
        "attention-blocks", ge=1,
    )  # fmt: skip
    w_o: str | None = setting(
        None, CHOICE, "output map of multilinear: full (one length), decay or conv", "NAME",
        "w-o", choices=("full", "decay", "conv"),
    )  # fmt: skip
    core: str | None = setting(
        None, CHOICE, "core of multilinear: diagonal or full", "NAME",
        choices=("diagonal", "full"),
    )  # fmt: skip
    kernel: int | None = setting(
        None, CHOICE, "offsets that conv looks at", "K", "attention-kernel", ge=1
    )
    terms: int | None = setting(None, CHOICE, "decays of each side of decay", "S", ge=1)
    length: int | None = setting(
        None, CHOICE, "the one sequence length of full", "N", "attention-length", ge=1
    )
    kernels: int | None = setting(None, CHOICE, "kernels W of a head of dimensionwise", "c", ge=1)
    f: str | None = setting(
        None, CHOICE, "of dimensionwise: cosine, scale, or softmax (encoders)", "NAME",
        choices=("cosine", "scale", "softmax"),
    )  # fmt: skip
    mixer: int | None = setting(
        None,
        CHOICE,
        "tokens of dimensionwise's local convolution; 0 for none",
        "w",
        ge=0,
    )
    layers: str | None = setting(
        None,
        BUILD,
        "which get it, such as 3-5 or 0,2,4, or of one side: encoder, decoder:0-1; else all",
        "LAYERS",
        pattern=r"^((encoder|decoder)|((encoder|decoder):)?\d+(-\d+)?(,\d+(-\d+)?)*)$",
        what="layers such as 3-5 or 0,2,4, of both sides or as encoder:0-1",
    )
    max_loss_increase: float | None = setting(
        None,
        "compress",
        "convert from the least sensitive layer on, while the loss grows by at most this share",
        "SHARE",
        gt=0,
    )


def flag(key: str) -> str:
    """The flag that gives a choice: '--w-o' of w_o."""
    return next(f"--{each.flag}" for each in settings_of(Attending) if each.path == key)
