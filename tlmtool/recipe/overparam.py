"""The schema of over-parameterizing: how much larger, which matrices, and when."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting

CORES = "the number that costs least"
STRATEGIES = ("none", "static", "dynamic")
SCORES = ("taylor", "zero-out", "fisher")


@dataclass(frozen=True)
class Growth:
    """How large a checkpoint is made, exactly: `growth` of its sites, or `to_params` in all."""

    growth: float | None = setting(
        None,
        "overparam",
        "Size (give one of two): enlarge the layers to this many times their parameters, such as 3",
        "G",
        gt=1,
    )
    to_params: str | None = setting(
        None,
        "overparam",
        "Size: enlarge the whole model to this many parameters, such as 60M",
        "N",
        pattern=r"^[1-9]\d*(\.\d+)?[kKMGB]?$",
        what="a number of parameters such as 60M, 1.2B or 750k",
    )
    sites: tuple[str, ...] = setting(
        ("attention", "ffn"),
        "overparam",
        "Linear layers to enlarge, separated by commas: attention, ffn, or patterns of names",
        "SITES",
    )
    cores: int | None = setting(
        None,
        "overparam",
        "Number of factors (cores) that each matrix becomes",
        "M",
        ge=2,
        otherwise=CORES,
    )


@dataclass(frozen=True)
class Strategy:
    """Which matrices are over-parameterized during training, and when."""

    name: str = setting(
        "none",
        "finetune",
        "When weight matrices are over-parameterized, that is, trained as products with more "
        "parameters. none: never. static: once, the N most important of each role, chosen by half "
        "of the steps (at once if MODEL has a head for the task). dynamic: n more of each role "
        "every --every steps",
        "NAME",
        "strategy",
        choices=STRATEGIES,
    )
    N: int = setting(
        12, "finetune", "Matrices of each role (query, key ...) to choose in all", "N", "N", ge=1
    )
    n: int = setting(
        2, "finetune", "Matrices of each role to choose at a time (dynamic)", "n", "n", ge=1
    )
    every: int = setting(100, "finetune", "Steps between choices (dynamic)", "STEPS", ge=1)
    importance: str | None = setting(
        None,
        "finetune",
        f"Score of a matrix: {', '.join(SCORES[:-1])} or {SCORES[-1]}",
        "NAME",
        choices=SCORES,
        otherwise="zero-out for static, taylor for dynamic",
    )
    growth: float = setting(
        3.0,
        "finetune",
        "Enlarge a chosen matrix to this many times its parameters",
        "G",
        gt=1,
    )
    method: str = setting(
        "mpo",
        "finetune",
        "Decomposition of a chosen matrix: mpo, or svd, whose growth is fixed",
        "NAME",
        choices=("mpo", "svd"),
    )
    cores: int | None = setting(
        None,
        "finetune",
        "Number of factors (cores) that it becomes",
        "M",
        ge=2,
        otherwise=CORES,
    )
    sites: tuple[str, ...] = setting(
        ("attention", "ffn"),
        "finetune",
        "Linear layers that may be chosen, separated by commas: attention, ffn, or patterns of "
        "names",
        "SITES",
    )
    moments: str = setting(
        "project",
        "finetune",
        "Moments of AdamW for new cores: project carries those of the matrix over, zero starts "
        "again",
        "HOW",
        choices=("project", "zero"),
    )
    no_lr_match: bool = setting(
        False,
        "finetune",
        "Do not lower the learning rate of the cores, although their steps move the matrix further",
    )
    no_merge: bool = setting(
        False, "finetune", "Write the cores to the checkpoint instead of merging them"
    )
