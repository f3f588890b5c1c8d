"""What every tensor attention is: a frozen dataclass of choices with a few pure functions."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
State = dict[str, Tensor]  # what a causal kernel remembers of the past, each (B, ...)


def exact(x: Tensor) -> AbstractContextManager:
    """No autocast where x is: what is inside is computed in the dtype it is given."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()


@dataclass(frozen=True)
class Attention:
    """A way to mix tokens in place of softmax attention; a subclass says how.

    Like a `Decomposition` it holds choices only: the learned tensors go in and out as a dict. q, k,
    v are (B, H, N, D), what the projections give, split into heads (blocks); F is what comes out of
    it for each token: what the output projection takes, or, where `own_output`, E: then the kernel
    has an output map W^O of its own and the output projection is gone.
    """

    reference: ClassVar[str] = ""

    @property
    def name(self) -> str:
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
        """The one sequence length N that it is made for; None for any."""
        return None

    def heads(self, heads: int, width: int) -> tuple[int, int]:
        """(H, D) that it asks of a module that has these: its own blocks and rank, if any."""
        return heads, width

    def shapes(self, heads: int, width: int, features: int) -> dict[str, tuple[int, ...]]:
        """{learned tensor: shape} for H heads of width D in a model of width E."""
        raise NotImplementedError

    def initial(self, heads: int, width: int, features: int, fitted: bool = False) -> Tensors:
        """The learned tensors before training, float32, from torch's global generator; `fitted`:
        what follows is fitted to them, so that outputs need not start small."""
        raise NotImplementedError

    def out_features(self, heads: int, width: int, features: int) -> int:
        """F"""
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
        """(B, H, N, D) each -> (B, N, F), the fast way; in the dtype of q, accumulated in float32.

        `real` (B, N): false on padding, at either end, which then changes nothing at the others;
        what comes out at padding itself is unspecified but finite. `causal`: no token sees a later
        one. Raises ValueError for what the kernel cannot do.
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
        """As `apply`, straight from the paper's equations, every tensor of theirs in memory."""
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
        """The next N tokens after those that `state` stands for (none: the first): what `apply`,
        causal, would give at their places, and the state after them, of a size free of N."""
        raise NotImplementedError

    def flops(
        self, batch: int, heads: int, length: int, width: int, features: int, causal: bool
    ) -> int:
        """FLOPs of `apply` (1 multiply-add = 2), the learned maps of it included."""
        raise NotImplementedError

    def to_dict(self) -> dict:
        return {"name": self.name, **{k: v for k, v in asdict(self).items() if v is not None}}
