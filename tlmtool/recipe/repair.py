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
        "With once, a layer is fitted to the error of its weight alone (EoRA). With sequential, it "
        "is fitted to the outputs of the original, on the inputs that repaired layers give",
        "HOW",
        choices=("sequential", "once"),
    )
