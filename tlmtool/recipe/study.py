"""The schema of a study: a controlled comparison of several arms over several seeds."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting

ARMS = ("dense", "dense-matched", "frozen", "svd", "mpo-static", "mpo-dynamic")


@dataclass(frozen=True)
class Study:
    """A controlled comparison of several arms over several seeds, instead of one training."""

    seeds: int | None = setting(
        None,
        "finetune",
        "Compare: train every arm with this many seeds, from --seed on, and write the results to "
        "out/study-<model>-<task>",
        "N",
        ge=1,
    )
    arms: tuple[str, ...] = setting(
        ARMS, "finetune", "What to compare, separated by commas", "ARMS", choices=ARMS
    )
    lr_grid: tuple[float, ...] = setting(
        (),
        "finetune",
        "Learning rates to choose from, separated by commas. Dense training chooses one for all "
        "arms, on a tenth of the training examples that is set aside",
        "RATES",
        gt=0,
        optional=True,
    )
