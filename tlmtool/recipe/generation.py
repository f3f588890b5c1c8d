"""The schema of generating: the prompts, how they are continued, and the model beside."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting


@dataclass(frozen=True)
class Generation:
    """What a language model is asked to continue, and how."""

    prompt: str | None = setting(
        None,
        "generate",
        "Text to continue. A masked language model fills in each [MASK] of it",
        "TEXT",
        otherwise="three that come with tlm",
    )
    prompts: str | None = setting(
        None, "generate", "File of texts to continue, one a line", "PATH", reads="data"
    )
    against: str | None = setting(
        None,
        "generate",
        "Second model, whose texts are shown beside, such as the one before compressing",
        "MODEL",
        reads="model",
    )
    tokens: int = setting(64, "generate", "New tokens of a text, at most", "N", ge=1)
    temperature: float = setting(
        0.0,
        "generate",
        "Draw tokens at this temperature, by --seed; 0 takes the most likely token each time",
        "T",
        ge=0,
    )
    raw: bool = setting(
        False, "generate", "Take prompts as they are, also where the model has a chat template"
    )
