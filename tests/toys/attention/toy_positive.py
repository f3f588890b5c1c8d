"""Linear attention: a product of positive features of q and k in place of the softmax."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import elu, softplus

from tlmtool.attention.base import Attention, State, Tensors, choice, exact

EPS = 1e-6  # keeps the output finite where a text holds no tokens


@dataclass(frozen=True)
class Positive(Attention):
    """O_i = sum_j w_ij v_j / sum_j w_ij with w_ij = phi(t q_i) . phi(k_j); each head learns a t."""

    feature: str = choice(
        "elu", "positive feature of q and k: elu (plus 1) or softplus", "NAME",
        choices=("elu", "softplus"),
    )  # fmt: skip
    reference: ClassVar[str] = "Katharopoulos et al. 2020 (Transformers are RNNs)"

    def shapes(self, heads: int, width: int, features: int) -> dict[str, tuple[int, ...]]:
        return {"temperature": (heads,)}

    def initial(self, heads: int, width: int, features: int, fitted: bool = False) -> Tensors:
        return {"temperature": torch.ones(heads)}

    def apply(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        if causal:
            return self.stream(q, k, v, tensors, None, real)[0]
        with exact(q):
            dtype, (q, k, v) = q.dtype, self._ready(q, k, v, tensors, real)
            return self._output(q @ (k.mT @ v)).to(dtype)

    def naive(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        dtype, (q, k, v) = q.dtype, self._ready(q, k, v, tensors, real)
        w = torch.einsum("bhid,bhjd->bhij", q, k)
        return self._output(torch.einsum("bhij,bhjd->bhid", w.tril() if causal else w, v)).to(dtype)

    def stream(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        state: State | None = None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        with exact(q):
            dtype, (q, k, v) = q.dtype, self._ready(q, k, v, tensors, real)
            past = 0 if state is None else state["past"]
            out = (q @ k.mT).tril() @ v + (0 if state is None else q @ past)
            return self._output(out).to(dtype), {"past": past + k.mT @ v}

    def _ready(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: Tensors, real: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features of q and k, zero at padding, and v with a column of ones, which sums weights."""
        wide = torch.promote_types(q.dtype, torch.float32)
        q = q.to(wide) * tensors["temperature"].to(wide)[:, None, None]
        q, k = (softplus(x) if self.feature == "softplus" else elu(x) + 1 for x in (q, k.to(wide)))
        k = k if real is None else k.masked_fill(~real[:, None, :, None], 0)
        return q, k, torch.cat([v.to(wide), torch.ones_like(v[..., :1], dtype=wide)], -1)

    def _output(self, summed: Tensor) -> Tensor:
        """(B, H, N, D + 1), of which the last are the weights -> (B, N, H D)"""
        return (summed[..., :-1] / (summed[..., -1:] + EPS)).transpose(1, 2).flatten(2)
