"""The schema of quantizing: how many bits the stored weights have."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting


@dataclass(frozen=True)
class Quantization:
    """Bits of the weights in the files. None leaves them in floats."""

    bits: int | None = setting(
        None,
        "compress quantize export",
        "Bits of a stored weight, 8 or 4: each is rounded to the nearest level of its group. 8 "
        "costs almost no quality; 4 is half as large and costs some",
        "B",
        choices=(8, 4),
    )
    embedding_bits: int | None = setting(
        None,
        "compress quantize",
        "The same for tables of tokens and positions and for the head that predicts tokens: 8, 4, "
        "or 16, which are floats. Other bits than --bits need tlm to load, except 16",
        "B",
        choices=(16, 8, 4),
        otherwise={
            "compress": "8",
            "quantize": "8; with --bits 4 of a model without factors 16, which loads without tlm",
        },
    )
