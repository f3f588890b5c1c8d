"""Dimension-wise attention: columns are multiplied with columns (D x D), not tokens with tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.attention import _mixer
from tlmtool.attention._features import EMPTY, QKV, featured, started
from tlmtool.attention._heads import kernel, meet, squares, wide
from tlmtool.attention._linear import inverse_norms, linear, linear_flops, norms_flops
from tlmtool.attention._prefix import by_kernel, prefix_flops
from tlmtool.attention._scores import EPS, scores
from tlmtool.attention.base import Attention, State, Tensors, choice, exact

START = 0.03  # size of an untrained kernel's outputs, relative to v: larger ones drown the tokens


@dataclass(frozen=True)
class DimensionWise(Attention):
    """O[i, j] = sum_m W[j, m] f(S)[j, m] V[i, m], S = Q^T K (D, D), for each head.

    The paper's Khatri-Rao product X[i, j, m] = f(S)[j, m] V[i, m] under a learned kernel W equals
    V (W o f(S))^T, which needs no N x D x D tensor. In a decoder token i has its own S_i, a sum
    over n <= i, and O_i = (W o f(S_i)) V_i.

    `kernels` c: c kernels W, whose outputs stand side by side, so F = H c D. `rank` R: W = left
    right of that rank; in a decoder this is R linear attentions. `mixer` w: a depthwise convolution
    of v over w tokens is added: the last w in a decoder, else those around. It is the only part
    that sees positions, since all tokens share one S.

    The paper leaves `f` open. Here it depends on the number n of real tokens (in a decoder: those
    up to i), and on a learned temperature t of each head:

    cosine   t sqrt(n / (n + D)) S[j, m] / sqrt((sum q_j^2 + EPS) (sum k_m^2 + EPS)): bounded, and
             independent of the scale of q and k. The root discounts short texts, whose cosine is
             noise of size 1 / sqrt(n).
    scale    t S / n
    softmax  D softmax(t S / n) over m, with mean 1. It does not separate into j and m, so it works
             in encoders only.
    features S = V^T K between the columns of v and M = 2 D positive features of k, softmax(A k, -A
             k) with a learned A (Hedgehog, arXiv 2402.04347). Token i has such features of q in
             the place of v, divided so that the weights of all tokens sum to 1. With W = 1, where
             it starts, this is linear attention. It has no temperature.

    At the start t = sqrt(D), W is normal with variance START^2 / D and the mixer with 1 / w. Let
    q and k be random maps of features with D independent directions. Then a cosine has variance
    1/n + 1/D and f(S) variance 1. The output has START^2 times the variance of v, for every n.
    Untrained q and k turn v in a random direction for each text, so outputs as large as v would
    drown the tokens. A fitted output map removes that scale; then W starts divided by START.
    """

    kernels: int = choice(1, "number of kernels W of a head", "c", "kernels", ge=1)
    f: str = choice(
        "cosine",
        "function of Q^T K, cosine, scale, softmax (encoders only), or learned features",
        "NAME",
        "f",
        choices=("cosine", "scale", "softmax", "features"),
    )
    rank: int | None = choice(None, "rank of W", "R", ge=1)
    mixer: int = choice(0, "tokens of a local convolution; 0 for none", "w", "mixer", ge=0)
    local: ClassVar[tuple[str, ...]] = ("mixer",)
    reference: ClassVar[str] = "TensorCoder 2020 (arXiv 2008.01547)"

    @property
    def causal(self) -> bool:
        return self.f != "softmax"

    def shapes(self, heads: int, width: int, features: int) -> dict[str, tuple[int, ...]]:
        h, c, d, r = heads, self.kernels, width, self.rank
        if r is not None and r > d:
            raise ValueError(f"rank {r} is above {d}, the width of a head")
        m = self._columns(d)
        found = {"kernel": (h, c, d, m)}
        if r is not None:
            found = {"left": (h, c, d, r), "right": (h, c, r, m)}
        more = {"maps": (h, 2, d, d)} if self.f == "features" else {"temperature": (h,)}
        mixer = {"mixer": (h, c, d, self.mixer)} if self.mixer else {}
        return {**found, **more, **mixer}

    def _columns(self, width: int) -> int:
        """M, the columns of k that meet those of v."""
        return 2 * width if self.f == "features" else width

    def initial(self, heads: int, width: int, features: int, fitted: bool = False) -> Tensors:
        made = {k: torch.randn(s) for k, s in self.shapes(heads, width, features).items()}
        if self.f == "features":
            return started(made)
        made["temperature"] = torch.full((heads,), width**0.5)
        start = 1.0 if fitted else START
        spread = {"kernel": start * width**-0.5, "mixer": max(self.mixer, 1) ** -0.5}
        spread["right"] = (width * (self.rank or 1)) ** -0.25
        spread["left"] = start * spread["right"]
        return {k: x * spread.get(k, 1.0) for k, x in made.items()}

    def out_features(self, heads: int, width: int, features: int) -> int:
        return heads * self.kernels * width

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
            return self.stream(q, k, v, tensors, None, real, keep=False)[0]
        with exact(q):
            dtype, (q, k, v, t, mask) = q.dtype, wide(q, k, v, tensors, real)
            n = q.shape[2] if mask is None else mask.sum(2, keepdim=True)
            local, (q, k, v), _ = v, *self._turned((q, k, v), t, mask)
            qq, kk = (squares(q), squares(k)) if self.f == "cosine" else (None, None)
            out = meet(v, scores(self.f, q.mT @ k, n, (qq, kk), t), t)
            return self._output(out, _mixer.widened(local, self.mixer, False), t).to(dtype)

    def naive(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        self._check(causal)
        dtype, (q, k, v, t, mask) = q.dtype, wide(q, k, v, tensors, real)
        mask = torch.ones_like(v[:, :1, :, :1]) if mask is None else mask
        add = torch.cumsum if causal else lambda x, dim: x.sum(dim, keepdim=True)
        local, (q, k, v), _ = v, *self._turned((q, k, v), t, mask, causal)
        s = add(q[..., :, None] * k[..., None, :], 2)  # S_i: (B, H, N, D, M), or S: N is 1
        n = add(mask, 2)[..., None]
        s = scores(self.f, s, n, (add(q**2, 2), add(k**2, 2)), t)
        x = s * v[..., None, :]  # the Khatri-Rao product, (B, H, N, D, M)
        out = torch.einsum("hcjm,bhijm->bihcj", kernel(t), x).flatten(2)
        if self.mixer:
            out = out + _mixer.naive(local, t["mixer"], causal)
        return out.to(dtype)

    def stream(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        state: State | None = None,
        real: Tensor | None = None,
        keep: bool = True,
    ) -> tuple[Tensor, State]:
        """As in `Attention`; without `keep` the state that is returned is empty."""
        self._check(True)
        with exact(q):
            dtype, (q, k, v, t, mask) = q.dtype, wide(q, k, v, tensors, real)
            old = state or {}
            n = torch.ones_like(v[:, :1, :, :1]) if mask is None else mask
            n = n.cumsum(2) + old.get("n", 0)  # (B, 1, N, 1)
            local, (q, k, v), new = v, *self._turned((q, k, v), t, mask, True, old)
            out = self._prefix(q, k, v, n, t, old)
            if self.mixer > 1:
                before = [old["v"], local] if old else None
                local = torch.cat(before, 2) if before else _mixer.widened(local, self.mixer, True)
            new = new | self._after(q, k, local, n[:, :, -1:], old) if keep else {}
            return self._output(out, local, t).to(dtype), new

    def _turned(
        self, qkv: QKV, t: Tensors, mask: Tensor | None, causal: bool = False, old: State = EMPTY
    ) -> tuple[QKV, State]:
        """(what stands for Q, K and V in the product, what a state remembers of them)."""
        if self.f != "features":
            return qkv, {}
        return featured(qkv, t["maps"], mask, causal, old.get("kk", 0.0))

    def flops(
        self, batch: int, heads: int, length: int, width: int, features: int, causal: bool
    ) -> int:
        """The matrix products of `apply`, and the mixer; nothing else that is elementwise."""
        (b, h, n, d), c, r = (batch, heads, length, width), self.kernels, self.rank or 0
        m = self._columns(d)
        mixer, kernel = b * h * n * d * c * self.mixer, h * c * d * m * r
        mixer += 2 * b * h * n * d * d * (self.f == "features")  # and the maps
        if not causal:
            return 2 * (b * h * n * d * m * (1 + c) + kernel + mixer)
        if self._thin((b, h, n, d)):
            norms = 2 * norms_flops(b, h, n, d) if self.f == "cosine" else 0
            return linear_flops(b, h, n, (d, m), c, r) + norms + 2 * mixer
        eps = EPS if self.f == "cosine" else None
        return prefix_flops((b, h, n, c * d), (b, h, n, m), eps=eps) + 2 * (kernel + mixer)

    def _check(self, causal: bool) -> None:
        if causal and not self.causal:
            raise ValueError(
                "f = 'softmax' does not separate into rows and columns of S, so that each token "
                "would need a D x D state of its own: a decoder takes 'cosine', 'scale' or "
                "'features'"
            )

    def _thin(self, shape: tuple[int, ...]) -> bool:
        """Whether R linear attentions cost less than W does, on q of this shape."""
        if self.rank is None:
            return False
        (b, h, n, d), c = shape, self.kernels
        m = self._columns(d)
        dense = prefix_flops((b, h, n, c * d), (b, h, n, m))
        return linear_flops(b, h, n, (d, m), c, self.rank) < dense

    def _prefix(self, q: Tensor, k: Tensor, v: Tensor, n: Tensor, t: Tensors, old: State) -> Tensor:
        """Through the S_i of n tokens (B, 1, N, 1): (B, H, N, D) each -> (B, H, N, c, D)."""
        # f(S_i)[j, m] = t row_i[j] S_i[j, m] column_i[m] size_i
        cosine, size = self.f == "cosine", None
        if self.f != "features":
            which = "kernel" if self.rank is None else "left"  # takes the temperature along
            t[which] = t[which] * t["temperature"][:, None, None, None]
            size = (n / (n + q.shape[3])).sqrt() if cosine else 1 / n.clamp(min=1)
        column, row = v, None
        thin, eps = self._thin(q.shape), EPS if cosine else None
        if old or thin:  # otherwise `prefix` does this on the way
            column, size = v if size is None else v * size, None
            if eps:
                row = inverse_norms(q, old.get("qq", EPS))
                column, eps = inverse_norms(k, old.get("kk", EPS)) * column, None
        if thin:
            out = linear(q, k, column, t["left"], t["right"])
        else:
            out = by_kernel(q, k, column, kernel(t), size, eps)
        if old:
            out = out + meet(column, old["s"], t)
        return out if row is None else out * row[..., None, :]

    def _after(self, q: Tensor, k: Tensor, v: Tensor, n: Tensor, old: State) -> State:
        """The state after n tokens; v ends with the last of them. It keeps no view of the text."""
        new = {"n": n.clone(), "s": old.get("s", 0) + q.mT @ k}
        if self.f == "cosine":
            for name, x in (("qq", q), ("kk", k)):
                new[name] = old.get(name, EPS) + x.square().sum(2, keepdim=True)
        if self.mixer > 1:
            new["v"] = v[:, :, 1 - self.mixer :].clone()
        return new

    def _output(self, out: Tensor, v: Tensor, t: Tensors) -> Tensor:
        """(B, H, N, c, D), plus the mixer of v (B, H, N + w - 1, D) -> (B, N, F)."""
        out = _mixer.mixed(out, v, t["mixer"]) if self.mixer else out
        return out.transpose(1, 2).flatten(2)
