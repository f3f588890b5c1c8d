"""The schema of what is measured of a language model beside its scores."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting


@dataclass(frozen=True)
class Language:
    """The prompts that a causal language model continues, before and after."""

    prompts: str | None = setting(
        None,
        "compress finetune",
        "File of prompts, one a line: a causal language model continues the first three, before "
        "and after",
        "PATH",
        reads="data",
        otherwise="three that come with tlm",
    )
