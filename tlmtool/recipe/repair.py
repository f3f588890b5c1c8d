"""The schema of a repair: the model that was changed, and how large the adapter is."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting


@dataclass(frozen=True)
class Repair:
    """An adapter that brings a changed model nearer to its original."""

    against: str | None = setting(
        None,
        "repair",
        "The original: the model before it was compressed or quantized",
        "MODEL",
        reads="model",
    )
    rank: int = setting(
        32,
        "repair",
        "Rank of the adapter at each layer; a higher one repairs more and is larger",
        "R",
        ge=1,
    )
    fit: str = setting(
        "once",
        "repair",
        "What a layer is fitted to: sequential takes its inputs with the layers before it repaired "
        "and the outputs of the original, once takes the error of its weight alone (EoRA)",
        "HOW",
        choices=("sequential", "once"),
    )
