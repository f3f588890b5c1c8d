"""The schema of over-parameterizing: how much larger, which matrices, when; against what."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting


@dataclass(frozen=True)
class Growth:
    """How large a checkpoint is made, exactly: `growth` of its sites, or `to_params` in all."""

    growth: float | None = setting(
        None, "overparam", "parameters of the sites, after / before", "G", gt=1
    )
    to_params: str | None = setting(
        None,
        "overparam",
        "parameters of the whole model, such as 60M",
        "N",
        pattern=r"^[1-9]\d*(\.\d+)?[kKMGB]?$",
        what="a number of parameters such as 60M, 1.2B or 750k",
    )
    cores: int | None = setting(
        None, "overparam", "cores of each matrix; of itself by cost", "m", ge=2
    )
    sites: tuple[str, ...] = setting(
        ("attention", "ffn"), "overparam", "attention, ffn, or globs, by comma", "SITES"
    )


@dataclass(frozen=True)
class Strategy:
    """Which matrices are over-parameterized by MPO during training, and when."""

    name: str = setting(
        "none",
        "finetune",
        "none; static: half of the steps (none where the checkpoint has the task's head), then the "
        "top N of each role; dynamic: n more every t",
        "NAME",
        "strategy",
        choices=("none", "static", "dynamic"),
    )
    N: int = setting(12, "finetune", "matrices of each role in all", "N", "N", ge=1)
    n: int = setting(2, "finetune", "matrices of each role at a time (dynamic)", "n", "n", ge=1)
    every: int = setting(100, "finetune", "steps between selections (dynamic)", "t", ge=1)
    importance: str | None = setting(
        None,
        "finetune",
        "taylor, zero-out or fisher; of itself zero-out for static, taylor for dynamic",
        "NAME",
        choices=("taylor", "zero-out", "fisher"),
    )
    form: str = setting(
        "mpo",
        "finetune",
        "mpo, or svd: two cores, of the growth that they have",
        "NAME",
        choices=("mpo", "svd"),
    )
    growth: float = setting(
        3.0, "finetune", "parameters of an expanded matrix, after / before", "G", "growth", gt=1
    )
    cores: int | None = setting(
        None, "finetune", "cores of an expanded matrix; of itself by cost", "m", "cores", ge=2
    )
    sites: tuple[str, ...] = setting(
        ("attention", "ffn"), "finetune", "which compete: attention, ffn, or globs", "SITES"
    )
    moments: str = setting(
        "project",
        "finetune",
        "moments of new cores: project (the weight's, carried back) or zero",
        "HOW",
        choices=("project", "zero"),
    )
    no_lr_match: bool = setting(
        False, "finetune", "leave the rate of the cores, whose steps move W further"
    )
    no_merge: bool = setting(False, "finetune", "keep the cores in the checkpoint")


ARMS = ("dense", "dense-matched", "frozen", "svd", "mpo-static", "mpo-dynamic")


@dataclass(frozen=True)
class Study:
    """A controlled comparison of several arms over several seeds, instead of one training."""

    seeds: int | None = setting(
        None, "finetune", "compare the arms over so many seeds, from --seed on", "N", "seeds", ge=1
    )
    arms: tuple[str, ...] = setting(
        ARMS,
        "finetune",
        "what is compared, by comma",
        "ARMS",
        "arms",
        choices=ARMS,
    )
    lr_grid: tuple[float, ...] = setting(
        (),
        "finetune",
        "rates of which dense training, on a tenth of train set aside, picks one for all arms",
        "RATES",
        "lr-grid",
        gt=0,
        optional=True,
    )
