"""The schema of a result: where it goes, and when the run counts as failed."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting
from tlmtool.recipe.verbs import CHECKPOINTS, EVERY, VERBS, WRITES

WRITING = " ".join(WRITES)
SIZE = r"^[1-9]\d*(\.\d+)?([KMGT]i?)?B$"  # what `files.numbers.size` reads
PREDICTED = "compress overparam export finetune"  # the verbs with --dry-run; a merge takes seconds


@dataclass(frozen=True)
class Output:
    """What is written, and when the run counts as failed."""

    out: str | None = setting(
        None,
        WRITING,
        "Folder for the result",
        "DIR",
        otherwise={verb: VERBS[verb].out for verb in WRITES},
    )
    overwrite: bool = setting(False, WRITING, "Replace the result that is in this folder")
    dry_run: bool = setting(False, PREDICTED, "Predict size and cost, and write nothing")
    max_shard_size: str = setting(
        "5GB",
        " ".join(CHECKPOINTS),
        "Largest file of weights; more weights go into several files",
        "SIZE",
        pattern=SIZE,
        what="a size such as 5GB or 200MB",
    )
    fail_if: str | None = setting(
        None,
        EVERY,
        "Exit with code 3 if this holds for the report, such as 'seconds.load>60'",
        "TEST",
    )
