"""What every attention kernel is: a frozen dataclass of choices, and pure functions on tensors."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Tensors = dict[str, Tensor]
State = dict[str, Tensor]  # what a causal kernel remembers of the past, each (B, ...)
OUT = "out"  # the learned tensor (..., E) that is the output map of a kernel with `own_output`


def choice(default: Any, help: str, metavar: str, flag: str = "", **rules: Any) -> Any:
    """A field of a kernel that users can set: by a flag, by `--set attention.<field>`, in a recipe.

    `flag` is without its dashes, by default `attention-<field>`. Rules: `choices`, a tuple of
    names, and `ge`, the least number. `tlm --help` reads the arguments from the file without
    importing it, so they must be literals.
    """
    return field(default=default, metadata={"help": help, "metavar": metavar, **rules})


def exact(x: Tensor) -> AbstractContextManager[Any]:
    """Turns autocast off on the device of x: everything is computed in the dtype it is given."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()


@dataclass(frozen=True)
class Attention:
    """A way to mix tokens in place of softmax attention. A subclass in a file of this folder is
    found by its name.

    Like a `Decomposition` it holds choices only, each declared with `choice`: learned tensors are
    passed in and out as a dict. q, k and v are (B, H, N, D), what the projections give, split into
    heads (or blocks). F is the width of what it returns for each token: what the output projection
    takes, or E if `own_output`. A kernel with `own_output` has an output map W^O of its own, the
    learned tensor `out`, and the model's output projection is dropped.

    A subclass must define `shapes`, `initial`, `apply` and `naive`; `stream` too if it is `causal`.
    """

    reference: ClassVar[str] = ""
    local: ClassVar[tuple[str, ...]] = ()  # learned tensors of a mixer that sees near tokens alone

    def __post_init__(self) -> None:
        """Raises ValueError for a choice that breaks a rule of its field."""
        for each in fields(self):
            value, rules = getattr(self, each.name), each.metadata
            if value is None and each.default is None:
                continue
            if (known := rules.get("choices")) and value not in known:
                raise ValueError(f"unknown {each.name} {value!r}; known: {', '.join(known)}")
            if (least := rules.get("ge")) is not None and value < least:
                raise ValueError(f"{each.name} {value} is below {least}")

    @property
    def name(self) -> str:
        """The name of the file, which is also the value of `--attention`."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def own_output(self) -> bool:
        """Whether the learned tensors hold the output map."""
        return False

    @property
    def causal(self) -> bool:
        """Whether it can be used in a decoder."""
        return True

    @property
    def length(self) -> int | None:
        """The one sequence length N that it is made for; None for any length."""
        return None

    def check_length(self, length: int) -> None:
        """Raises ValueError for texts of more tokens than the kernel is made for."""
        if self.length is not None and length > self.length:
            raise ValueError(
                f"{length} tokens are more than length {self.length}, which {self.name} attention "
                "is built for"
            )

    def heads(self, heads: int, width: int) -> tuple[int, int]:
        """The (H, D) that it wants from a module with these: its own blocks and rank, if any."""
        return heads, width

    def shapes(self, heads: int, width: int, features: int) -> dict[str, tuple[int, ...]]:
        """{learned tensor: shape} for H heads of width D in a model of width E."""
        raise NotImplementedError

    def initial(self, heads: int, width: int, features: int, fitted: bool = False) -> Tensors:
        """The learned tensors before training, float32, drawn from torch's global generator.

        `fitted`: what follows is fitted to the outputs, so they need not start small.
        """
        raise NotImplementedError

    def out_features(self, heads: int, width: int, features: int) -> int:
        """F."""
        return features if self.own_output else heads * width

    def apply(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """(B, H, N, D) each -> (B, N, F), the fast way, in the dtype of q, summed up in float32.

        `real` (B, N) is false on padding, at either end of a text. Padding changes nothing at real
        tokens; the output at padding itself is unspecified but finite. `causal`: no token sees a
        later one. Raises ValueError for what the kernel cannot do.
        """
        raise NotImplementedError

    def naive(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """As `apply`, straight from the paper's equations, with each of their tensors in memory."""
        raise NotImplementedError

    def stream(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        state: State | None = None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """The next N tokens of a text -> (their outputs, the state after them).

        `state` is that of the tokens before; None at the start. The outputs are those that a causal
        `apply` gives at these places. Unless `length` is set, the size of the state does not depend
        on how many tokens there were.
        """
        raise NotImplementedError

    def features(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: Tensors, rows: Tensor, causal: bool
    ) -> Tensor:
        """What the output map takes at places `rows` (M,) of one text without padding: (M, ...).

        Needed only by a kernel made for one `length`, to fit its output map to a dense layer.
        """
        raise NotImplementedError

    def flops(
        self, batch: int, heads: int, length: int, width: int, features: int, causal: bool
    ) -> int:
        """FLOPs of `apply` (1 multiply-add = 2), its learned maps included.

        By default the matrix products that torch's counter finds on the meta device.
        """
        shapes = self.shapes(heads, width, features)
        tensors = {name: torch.empty(s, device="meta") for name, s in shapes.items()}
        x = torch.empty(batch, heads, length, width, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.apply(x, x, x, tensors, causal=causal)
        return counter.get_total_flops()

    def to_dict(self) -> dict[str, Any]:
        """Name and choices as plain values, without those that are None."""
        return {"name": self.name, **{k: v for k, v in asdict(self).items() if v is not None}}
