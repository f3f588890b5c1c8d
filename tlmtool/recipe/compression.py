"""The schema of compressing: which layers become factors, which size, fitted on which text."""

from dataclasses import dataclass

from tlmtool.recipe.output import SIZE
from tlmtool.recipe.registries import registered
from tlmtool.recipe.setting import setting

ALLOCATIONS = ("greedy", "uniform")  # ways to divide `keep` among the sites


def decompositions() -> dict[str, str]:
    """{name: first line of its docstring}."""
    return registered("decompositions")


def methods() -> list[str]:
    """What `--method` takes."""
    return ["auto", *decompositions()]


@dataclass(frozen=True)
class Override:
    """What holds for the sites of one glob instead of the run's settings; later entries win."""

    sites: str = setting("", "compress")
    method: str | None = setting(None, "compress", choices=methods)
    rank: int | None = setting(None, "compress", ge=1)
    blocks: int | None = setting(None, "compress", ge=1)


@dataclass(frozen=True)
class Compression:
    """Which sites are factorized, by which decomposition, to which budget (exactly one)."""

    rank: int | None = setting(
        None,
        "compress",
        "Budget (give one of these): rank of the factors, the same for every layer; a lower rank "
        "is smaller and less accurate",
        "R",
        ge=1,
    )
    keep: float | tuple[float, ...] | None = setting(
        None,
        "compress",
        "Budget: share of the parameters of the chosen layers to keep, such as 0.5; the rest of "
        "the model stays whole, see --target-parameters. Several, such as 0.9,0.8,0.6, give a "
        "checkpoint each, and the model is measured once",
        "SHARE",
        gt=0,
        lt=1,
    )
    energy: float | None = setting(
        None,
        "compress",
        "Budget: share of each layer's squared singular values to keep, such as 0.9",
        "SHARE",
        gt=0,
        le=1,
    )
    target_parameters: float | None = setting(
        None,
        "compress",
        "Budget: share of the parameters of the whole model to keep, such as 0.6; the chosen "
        "layers give up the rest, where --keep is a share of these layers alone",
        "SHARE",
        gt=0,
        lt=1,
    )
    target_size: str | None = setting(
        None,
        "compress",
        "Budget: the most bytes that the files of weights take on disk, such as 100MB",
        "SIZE",
        pattern=SIZE,
        what="a size such as 100MB or 1.5GB",
    )
    max_loss_increase: float | None = setting(
        None,
        "compress",
        "Budget: how far the loss on held-out text may rise, in nats; without a language-model "
        "head, how large the feature error may be. tlm looks for the smallest --keep within it. "
        "With --attention, it replaces layers within it, the least sensitive first",
        "RISE",
        gt=0,
    )
    sites: tuple[str, ...] = setting(
        ("attention",),
        "compress",
        "Linear layers to compress, separated by commas: attention, ffn, embedding, all (these "
        "three), linears (every linear layer but the head), or patterns of names such as '*.query'",
        "SITES",
    )
    ignore: tuple[str, ...] = setting(
        (),
        "compress",
        "Layers to leave as they are: patterns of names, separated by commas",
        "PATTERNS",
        optional=True,
    )
    method: str | None = setting(
        None,
        "compress",
        "Decomposition of the weights, see below; auto takes the most accurate one for each layer",
        "NAME",
        choices=methods,
        otherwise="btd with --rank, otherwise auto",
    )
    blocks: int | None = setting(
        None,
        "compress",
        "Number of block terms of btd, with --rank",
        "P",
        ge=1,
        otherwise="the number of heads",
    )
    allocate: str = setting(
        "greedy",
        "compress",
        "How --keep is divided: greedy keeps parameters where they help most, uniform keeps the "
        "same share of every layer",
        "HOW",
        choices=ALLOCATIONS,
    )
    plain: bool = setting(
        False,
        "compress",
        "Write a checkpoint that needs no tlm to load: every MLP gets the same smaller width "
        "(--method narrow)",
    )
    fit: str = setting(
        "sequential",
        "compress",
        "Inputs that a layer is fitted on: sequential takes those from the compressed layers "
        "before it, once takes those of the original model",
        "HOW",
        choices=("sequential", "once"),
    )
    overrides: tuple[Override, ...] = setting(
        (),
        "compress",
        "a list of sections with sites (a pattern) and its own method, rank or blocks",
        flag=None,
    )

    @property
    def share(self) -> float | None:
        """`keep` of a compression to one budget."""
        assert not isinstance(self.keep, tuple), "one of several budgets is compressed at a time"
        return self.keep


@dataclass(frozen=True)
class Calibration:
    """The text whose activations weight the error; None is the text shipped with the package.

    `max_length` depends on the model by default: `commands.calibrating` says how."""

    text: str | None = setting(
        None,
        "compress repair",
        "Text to run the model on; what matters on it is kept. A file of text, a data set, or none",
        "SOURCE",
        "calibration",
        reads="data",
        otherwise="the texts of --recover, otherwise a text that comes with tlm",
    )
    samples: int = setting(
        1024,
        "compress repair",
        "Largest number of texts to use, one a line; a causal language model reads tokens instead",
        "N",
        "calibration-samples",
        ge=1,
    )
    tokens: int = setting(
        65_536,
        "compress repair",
        "Tokens that a causal language model reads, in windows of the joined text; more take "
        "longer and lose less",
        "N",
        "calibration-tokens",
        ge=8,
    )
    max_length: int | None = setting(
        None,
        "compress repair",
        "Tokens to use of each text; the rest is cut off. For a causal language model, tokens of a "
        "window",
        "N",
        ge=8,
        otherwise="128; for a causal language model 512, or its context where that is shorter",
    )
