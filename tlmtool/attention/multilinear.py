"""Multi-linear attention: a third-order tensor of queries, keys and values, as block terms."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tlmtool.attention import _full, _windows
from tlmtool.attention.base import Attention, State, Tensors, exact

SPREAD = 0.005  # of the first outputs


@dataclass(frozen=True)
class MultiLinear(Attention):
    """T[i,j,k] = mean_p sum_{rst} G_p[r,s,t] q_ir k_js v_kt, P blocks of rank R, and a W^O on it.

    A third-order, softmax-free polynomial mixing, which does not contain softmax attention as a
    special case (the theorem of the paper that links them moves a basis out of a softmax). q, k and
    v are normalised by their RMS over R, with learned gains, so that T is O(1).

    `core`: "diagonal", G_p = sqrt(R) diag(softmax of R entries), or "full", R^3 entries. Blocks
    that share projections are one block with the mean core, so each has its own here; `blocks` and
    `rank`: P and R, of themselves the heads and head width of the module.

    `w_o`: the map of T[i] (N x N) to E features, which replaces the output projection:
    "full"   W[j,k,:] / length (the paper's but for the factor, with which a step of Adam moves the
             sum over N^2 pairs by O(1)): one `length` N, of which shorter texts take the leading
             part. j and k count from the first real token.
    "decay"  W_i[j,k,:] = sum_{st} a_s(i-j) b_t(i-k) U[s,t,:], a_s(d) = c_s lambda_s^|d|, b likewise
             with rates of its own, each `terms` learned rates (so CP of terms^2 terms, whose two
             scans cost as `terms` would); c_s = 1 - lambda_s makes means of the sums, so that what
             rows have in common does not grow with the reach. Not causal: both sides by distance,
             so left and right look alike. Linear time, any length.
    "conv"   out_i = sum_{a,b < kernel} T[i,i-a,i-b] C[a,b,:], offsets centred where not causal (a -
             (kernel - 1) // 2): our definition of "feature extraction using convolution". Linear
             time, any length.
    decay and conv are relative by themselves; under "full" queries have no place but what the
    hidden states carry. Padding and causality zero rows of k and v: exact, as nothing is normalised
    over tokens.
    """

    w_o: str = "decay"
    core: str = "diagonal"
    length: int | None = None
    terms: int = 8
    kernel: int = 8
    rank: int | None = None
    blocks: int | None = None
    reference: ClassVar[str] = "Ma et al. 2019 (A Tensorized Transformer), multi-linear attention"

    def __post_init__(self) -> None:
        for field, known in (("w_o", ("full", "decay", "conv")), ("core", ("diagonal", "full"))):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"unknown {field} {getattr(self, field)!r}; known: {', '.join(known)}"
                )
        for field in ("length", "terms", "kernel", "rank", "blocks"):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)} is below 1")
        if (self.length is None) == (self.w_o == "full"):
            raise ValueError(
                f"length {self.length} with w_o {self.w_o}: full is built for one length, "
                "decay and conv take any"
            )

    @property
    def own_output(self) -> bool:
        return True

    def heads(self, heads: int, width: int) -> tuple[int, int]:
        return self.blocks or heads, self.rank or width

    def shapes(self, heads: int, width: int, features: int) -> dict[str, tuple[int, ...]]:
        """Raises ValueError for a rank above E."""
        if width > features:
            raise ValueError(f"rank {width} is above {features}, the width of the model")
        gains = {f"gain_{name}": (heads, width) for name in "qkv"}
        core = (heads, *(width,) * (1 if self.core == "diagonal" else 3))
        side = {"full": self.length, "decay": self.terms, "conv": self.kernel}[self.w_o]
        rates = {f"rate_{name}": (side,) for name in "kv"} if self.w_o == "decay" else {}
        return {**gains, "core": core, **rates, "out": (side, side, features)}

    def initial(self, heads: int, width: int, features: int, fitted: bool = False) -> Tensors:
        """Gains 1; an even diagonal core or a normal full one; decays over 0.5 to 64 tokens, spaced
        evenly in log; a normal W^O, so that independent q, k, v of any variance give outputs of
        standard deviation about SPREAD, small beside hidden states as those of an untrained softmax
        attention (as large, they would drown the tokens); under "full" times n / length, of n
        tokens seen, and less under "decay", whose means of independent rows are small."""
        shapes = self.shapes(heads, width, features)
        made = {name: torch.ones(shapes[name]) for name in shapes if name.startswith("gain")}
        if self.core == "diagonal":
            made["core"] = torch.zeros(shapes["core"])
        else:
            made["core"] = torch.randn(shapes["core"]) * width**-1.5
        for name in (n for n in shapes if n.startswith("rate")):
            reach = torch.logspace(-1, 6, self.terms, base=2)
            made[name] = -torch.expm1(1 / reach).log()  # sigmoid of it is exp(-1 / reach)
        out = SPREAD * torch.randn(shapes["out"]) * heads**0.5  # the mean over P is 1 / sqrt(P)
        made["out"] = out if self.w_o == "full" else out / shapes["out"][0]
        return made

    def apply(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        self._refuse_longer(q.shape[2])
        dtype = q.dtype
        with exact(q):
            if self.w_o != "full":
                found, _ = self._relative(q, k, v, tensors, real, causal)
                return (found @ tensors["out"].flatten(0, 1).to(found)).to(dtype)
            to, back = _full.places(real, q.shape[2])
            q, k, v = (_full.moved(x, to, 2) for x in self._ready(q, k, v, tensors, real))
            mixed = _full.mix(q, k, v, self._core(tensors, q), tensors["out"], causal)
            return _full.moved(mixed / self.length, back, 1).to(dtype)

    def naive(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        real: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        n = q.shape[2]
        self._refuse_longer(n)
        (to, back), dtype = _full.places(real, n), q.dtype
        q, k, v = (
            _full.moved(_windows.normal(x, real) * tensors[f"gain_{name}"].to(x)[:, None], to, 2)
            for name, x in (("q", q), ("k", k), ("v", v))
        )
        core = tensors["core"].to(q)
        if self.core == "diagonal":
            core = core.softmax(-1) * core.shape[1] ** 0.5
            t = torch.einsum("pr,bpir,bpjr,bpkr->bijk", core, q, k, v) / len(core)
        else:
            t = torch.einsum("prst,bpir,bpjs,bpkt->bijk", core, q, k, v) / len(core)
        gaps = torch.arange(n, device=q.device)[:, None] - torch.arange(n, device=q.device)  # i - j
        if causal:
            t = t * (gaps >= 0)[:, :, None] * (gaps >= 0)[:, None]
        w = tensors["out"].to(t)
        if self.w_o == "full":
            y = t.flatten(2) @ w[:n, :n].flatten(0, 1) / self.length  # SplitConcat(T) W^O
        else:
            if self.w_o == "decay":
                rates = [tensors[f"rate_{x}"].to(t).sigmoid()[:, None, None] for x in "kv"]
                a, b = ((1 - r) * r ** gaps.abs() for r in rates)  # (S, N, N)
            else:
                ahead = 0 if causal else (self.kernel - 1) // 2
                offsets = torch.arange(self.kernel, device=q.device)[:, None, None] - ahead
                a = b = (gaps == offsets).to(t)
            y = torch.einsum("bijk,sij,tik,ste->bie", t, a, b, w)
        return _full.moved(y, back, 1).to(dtype)

    def features(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: Tensors, rows: Tensor, causal: bool
    ) -> Tensor:
        """What the W^O of "full" maps at the places `rows` (M,) of one text without padding:
        T / length, zero where the text has no tokens. (M, length, length)"""
        with exact(q):
            q, k, v = self._ready(q, k, v, tensors, None)
            t = _full.seen(q, k, v, self._core(tensors, q), rows, causal) / self.length
        short = self.length - q.shape[2]
        return nn.functional.pad(t, (0, short, 0, short))

    def stream(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Tensors,
        state: State | None = None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """The state of "full" is k and v of all tokens so far, at most `length`, and each call
        costs what the whole text would."""
        if self.w_o != "full":
            with exact(q):
                found, state = self._relative(q, k, v, tensors, real, True, state)
                return (found @ tensors["out"].flatten(0, 1).to(found)).to(q.dtype), state
        n = q.shape[2]
        real = torch.ones_like(q[:, 0, :, 0], dtype=torch.bool) if real is None else real
        new = {"k": k, "v": v, "real": real}
        if state is not None:
            new = {x: torch.cat([state[x], new[x]], 1 if x == "real" else 2) for x in new}
        q = nn.functional.pad(q, (0, 0, new["k"].shape[2] - n, 0))
        y = self.apply(q, new["k"], new["v"], tensors, new["real"], causal=True)
        return y[:, -n:], new

    def flops(
        self, batch: int, heads: int, length: int, width: int, features: int, causal: bool
    ) -> int:
        """Counted on the meta device: of matrix products, as torch's counter does."""
        shapes = self.shapes(heads, width, features)
        tensors = {name: torch.empty(s, device="meta") for name, s in shapes.items()}
        x = torch.empty(batch, heads, length, width, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.apply(x, x, x, tensors, causal=causal)
        return counter.get_total_flops()

    def _relative(self, q, k, v, tensors, real, causal, state=None) -> tuple[Tensor, State]:
        """(features (B, N, S S), state) of decay and conv"""
        core = self._core(tensors, q)
        if self.w_o == "conv":
            ahead, scale = 0 if causal else (self.kernel - 1) // 2, self._scale(tensors, q)
            return _windows.conv((q, k, v), real, scale, core, self.kernel, ahead, state)
        q, k, v = (x.transpose(1, 2) for x in self._ready(q, k, v, tensors, real))
        rates = tuple(nn.functional.logsigmoid(tensors[f"rate_{name}"].to(q)) for name in "kv")
        return _windows.decay(q, k.flatten(2), v.flatten(2), core, rates, state, causal)

    def _ready(self, q, k, v, tensors, real) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (_windows.normal(x, real) for x in (q, k, v))
        return q * self._scale(tensors, q)[:, None], k, v

    def _scale(self, tensors: Tensors, like: Tensor) -> Tensor:
        """(P, R), of q: the mean over blocks, a diagonal core and all gains."""
        dtype = _windows.wide(like)
        core, q, k, v = (tensors[name].to(dtype) for name in ("core", "gain_q", "gain_k", "gain_v"))
        scale = q / len(core)
        if self.core == "diagonal":
            scale = scale * k * v * core.softmax(-1) * core.shape[1] ** 0.5
        return scale

    def _core(self, tensors: Tensors, like: Tensor) -> Tensor | None:
        """A full core with the gains of k and v, (P, R, R, R)"""
        if self.core == "diagonal":
            return None
        dtype = _windows.wide(like)
        core, k, v = (tensors[name].to(dtype) for name in ("core", "gain_k", "gain_v"))
        return core * k[:, None, :, None] * v[:, None, None]

    def _refuse_longer(self, n: int) -> None:
        if self.length is not None and n > self.length:
            raise ValueError(
                f"{n} tokens are more than the {self.length} that this w_o full was built for; "
                "w_o decay and conv take any length"
            )
