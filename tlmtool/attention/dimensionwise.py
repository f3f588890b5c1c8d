"""Dimension-wise attention: columns are multiplied with columns (D x D), not tokens with tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.attention import _mixer
from tlmtool.attention._heads import by_head, squares
from tlmtool.attention._linear import inverse_norms, linear, linear_flops, norms_flops
from tlmtool.attention._prefix import by_kernel, prefix_flops
from tlmtool.attention.base import Attention, State, Tensors, choice, exact

START = 0.03  # size of an untrained kernel's outputs, relative to v: larger ones drown the tokens
EPS = 1e-4  # added to sums of squares; a column whose sum is smaller than this hardly counts


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

    At the start t = sqrt(D), W is normal with variance START^2 / D and the mixer with 1 / w. Let
    q and k be random maps of features with D independent directions. Then a cosine has variance
    1/n + 1/D and f(S) variance 1. The output has START^2 times the variance of v, for every n.
    Untrained q and k turn v in a random direction for each text, so outputs as large as v would
    drown the tokens. A fitted output map removes that scale; then W starts divided by START.
    """

    kernels: int = choice(1, "number of kernels W of a head", "c", "kernels", ge=1)
    f: str = choice(
        "cosine",
        "function of Q^T K, cosine, scale, or softmax (encoders only)",
        "NAME",
        "f",
        choices=("cosine", "scale", "softmax"),
    )
    rank: int | None = choice(None, "rank of W", "R", ge=1)
    mixer: int = choice(0, "tokens of a local convolution; 0 for none", "w", "mixer", ge=0)
    reference: ClassVar[str] = "TensorCoder 2020 (arXiv 2008.01547)"

    @property
    def causal(self) -> bool:
        return self.f != "softmax"

    def shapes(self, heads: int, width: int, features: int) -> dict[str, tuple[int, ...]]:
        h, c, d, r = heads, self.kernels, width, self.rank
        if r is not None and r > d:
            raise ValueError(f"rank {r} is above {d}, the width of a head")
        kernel = {"kernel": (h, c, d, d)}
        if r is not None:
            kernel = {"left": (h, c, d, r), "right": (h, c, r, d)}
        mixer = {"mixer": (h, c, d, self.mixer)} if self.mixer else {}
        return {**kernel, "temperature": (h,), **mixer}

    def initial(self, heads: int, width: int, features: int, fitted: bool = False) -> Tensors:
        made = {k: torch.randn(s) for k, s in self.shapes(heads, width, features).items()}
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
            dtype, (q, k, v, t, mask) = q.dtype, _wide(q, k, v, tensors, real)
            n = q.shape[2] if mask is None else mask.sum(2, keepdim=True)
            qq, kk = (squares(q), squares(k)) if self.f == "cosine" else (None, None)
            out = _meet(v, self._f(q.mT @ k, n, qq, kk, t["temperature"]), t)
            return self._output(out, _mixer.widened(v, self.mixer, False), t).to(dtype)

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
        dtype, (q, k, v, t, mask) = q.dtype, _wide(q, k, v, tensors, real)
        mask = torch.ones_like(v[:, :1, :, :1]) if mask is None else mask
        add = torch.cumsum if causal else lambda x, dim: x.sum(dim, keepdim=True)
        s = add(q[..., :, None] * k[..., None, :], 2)  # S_i: (B, H, N, D, D), or S: N is 1
        n = add(mask, 2)[..., None]
        s = self._f(s, n, add(q**2, 2), add(k**2, 2), t["temperature"])
        x = s * v[..., None, :]  # the Khatri-Rao product, (B, H, N, D, D)
        out = torch.einsum("hcjm,bhijm->bihcj", _kernel(t), x).flatten(2)
        if self.mixer:
            out = out + _mixer.naive(v, t["mixer"], causal)
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
            dtype, (q, k, v, t, mask) = q.dtype, _wide(q, k, v, tensors, real)
            old = state or {}
            n = torch.ones_like(v[:, :1, :, :1]) if mask is None else mask
            n = n.cumsum(2) + old.get("n", 0)  # (B, 1, N, 1)
            out = self._prefix(q, k, v, n, t, old)
            if self.mixer > 1:
                v = torch.cat([old["v"], v], 2) if old else _mixer.widened(v, self.mixer, True)
            new = self._after(q, k, v, n[:, :, -1:], old) if keep else {}
            return self._output(out, v, t).to(dtype), new

    def flops(
        self, batch: int, heads: int, length: int, width: int, features: int, causal: bool
    ) -> int:
        """The matrix products of `apply`, and the mixer; nothing else that is elementwise."""
        (b, h, n, d), c, r = (batch, heads, length, width), self.kernels, self.rank or 0
        mixer, kernel = b * h * n * d * c * self.mixer, h * c * d * d * r
        if not causal:
            return 2 * (b * h * n * d * d * (1 + c) + kernel + mixer)
        if self._thin((b, h, n, d)):
            norms = 2 * norms_flops(b, h, n, d) if self.f == "cosine" else 0
            return linear_flops(b, h, n, d, c, r) + norms + 2 * mixer
        eps = EPS if self.f == "cosine" else None
        return prefix_flops((b, h, n, c * d), (b, h, n, d), eps=eps) + 2 * (kernel + mixer)

    def _check(self, causal: bool) -> None:
        if causal and not self.causal:
            raise ValueError(
                "f = 'softmax' does not separate into rows and columns of S, so that each token "
                "would need a D x D state of its own: a decoder takes 'cosine' or 'scale'"
            )

    def _thin(self, shape: tuple[int, ...]) -> bool:
        """Whether R linear attentions cost less than W does, on q of this shape."""
        if self.rank is None:
            return False
        (b, h, n, d), c = shape, self.kernels
        dense = prefix_flops((b, h, n, c * d), (b, h, n, d))
        return linear_flops(b, h, n, d, c, self.rank) < dense

    def _f(
        self, s: Tensor, n: Tensor | int, qq: Tensor | None, kk: Tensor | None, t: Tensor
    ) -> Tensor:
        """S (B, H, ..., D, D) of n tokens -> f(S). `qq`, `kk`: sums of squares (B, H, ..., D),
        needed for a cosine."""
        t, width = t.view(-1, *[1] * (s.ndim - 2)), s.shape[-1]
        if qq is not None and kk is not None and self.f == "cosine":
            s = s * (qq + EPS).rsqrt()[..., :, None] * (kk + EPS).rsqrt()[..., None, :]
            return s * (t * (n / (n + width)) ** 0.5)
        s = s * (t / (n + (n == 0)))
        return width * s.softmax(-1) if self.f == "softmax" else s

    def _prefix(self, q: Tensor, k: Tensor, v: Tensor, n: Tensor, t: Tensors, old: State) -> Tensor:
        """Through the S_i of n tokens (B, 1, N, 1): (B, H, N, D) each -> (B, H, N, c, D)."""
        which = "kernel" if self.rank is None else "left"  # takes the temperature along
        t[which] = t[which] * t["temperature"][:, None, None, None]
        # f(S_i)[j, m] = t row_i[j] S_i[j, m] column_i[m] size_i
        cosine = self.f == "cosine"
        scale = (n / (n + q.shape[3])).sqrt() if cosine else 1 / n.clamp(min=1)
        column, row = v, None
        size: Tensor | None = scale
        thin, eps = self._thin(q.shape), EPS if cosine else None
        if old or thin:  # otherwise `prefix` does this on the way
            column, size = v * scale, None
            if eps:
                row = inverse_norms(q, old.get("qq", EPS))
                column, eps = inverse_norms(k, old.get("kk", EPS)) * column, None
        if thin:
            out = linear(q, k, column, t["left"], t["right"])
        else:
            out = by_kernel(q, k, column, _kernel(t), size, eps)
        if old:
            out = out + _meet(column, old["s"], t)
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


def _wide(
    q: Tensor, k: Tensor, v: Tensor, tensors: Tensors, real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensors, Tensor | None]:
    """All in at least float32, zero at padding, and the mask (B, 1, N, 1) or None."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, v, t = q.to(wide), k.to(wide), v.to(wide), {n: x.to(wide) for n, x in tensors.items()}
    if real is None:
        return q, k, v, t, None
    mask = real[:, None, :, None].to(wide)
    return q * mask, k * mask, v * mask, t, mask


def _kernel(t: Tensors) -> Tensor:
    """W (H, c, D, D)."""
    return t["kernel"] if "kernel" in t else t["left"] @ t["right"]


def _meet(v: Tensor, s: Tensor, t: Tensors) -> Tensor:
    """V (W o S)^T of each kernel: (B, H, N, D), (B, H, D, D) -> (B, H, N, c, D)."""
    w = _kernel(t)
    return by_head(v, (w * s[:, :, None]).flatten(2, 3)).unflatten(-1, w.shape[1:3])
