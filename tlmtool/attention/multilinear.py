"""Multi-linear attention: a third-order tensor of queries, keys and values, as block terms."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tlmtool.attention import _full, _windows
from tlmtool.attention.base import OUT, Attention, State, Tensors, choice, exact

QKV = tuple[Tensor, Tensor, Tensor]
SPREAD = 0.005  # standard deviation of untrained outputs: larger ones drown the tokens


@dataclass(frozen=True)
class MultiLinear(Attention):
    """T[i,j,k] = mean_p sum_{rst} G_p[r,s,t] q_ir k_js v_kt, P blocks of rank R, and a W^O on it.

    A polynomial mixing of third order without a softmax. It does not contain softmax attention as a
    special case: the paper's theorem that links them moves a basis out of a softmax. q, k and v are
    divided by their RMS over R and have learned gains, so that T is O(1).

    `core` "diagonal": G_p = sqrt(R) diag(softmax of R entries); "full": R^3 entries. Blocks that
    share projections equal one block with the mean core, so here each has its own. `blocks` and
    `rank` are P and R, by default the heads and the head width of the module.

    `w_o` maps T[i] (N x N) to E features and replaces the output projection:

    full   W[j,k,:] / length, for texts of up to `length` N; shorter ones use the leading part. The
           factor is not in the paper: with it a step of Adam moves the sum over N^2 pairs by O(1).
           j and k count from the first real token.
    decay  W_i[j,k,:] = sum_{st} a_s(i-j) b_t(i-k) U[s,t,:] with a_s(d) = c_s lambda_s^|d|, and b
           alike with rates of its own; each has `terms` learned rates. (A CP of terms^2 terms whose
           two scans cost like `terms`.) c_s = 1 - lambda_s makes means of the sums: what rows
           have in common does not grow with the reach. Unless causal both sides count by distance,
           so left and right look alike. Linear time, any length.
    conv   out_i = sum_{a,b < kernel} T[i,i-a,i-b] C[a,b,:], with offsets centred, a - (kernel - 1)
           // 2, unless causal. This is our reading of the paper's "feature extraction using
           convolution". Linear time, any length.

    decay and conv are relative to the query; under full its hidden state alone carries a position.
    Padding and causality zero rows of k and v: exact, since nothing is normalised over tokens.
    """

    w_o: str = choice(
        "decay",
        "output map, full (for one length), decay or conv",
        "NAME",
        "w-o",
        choices=("full", "decay", "conv"),
    )
    core: str = choice(
        "diagonal", "core tensor, diagonal or full", "NAME", "core", choices=("diagonal", "full")
    )
    length: int | None = choice(None, "longest text, for w_o full", "N", ge=1)
    terms: int = choice(8, "decay rates of each side, for w_o decay", "S", "terms", ge=1)
    kernel: int = choice(8, "tokens that w_o conv sees", "K", ge=1)
    rank: int | None = choice(None, "width of a block; default that of a head", "R", ge=1)
    blocks: int | None = choice(None, "number of blocks; default that of the heads", "P", ge=1)
    reference: ClassVar[str] = "Ma et al. 2019 (A Tensorized Transformer), multi-linear attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.w_o == "full" and self.length is None:
            raise ValueError(
                "w_o full is built for one length: give length N, or take decay or conv"
            )
        if self.w_o != "full" and self.length is not None:
            raise ValueError(
                f"length {self.length} with w_o {self.w_o}: only full is built for one length"
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
        side = {"full": self.length or 0, "decay": self.terms, "conv": self.kernel}[self.w_o]
        rates = {f"rate_{name}": (side,) for name in "kv"} if self.w_o == "decay" else {}
        return {**gains, "core": core, **rates, OUT: (side, side, features)}

    def initial(self, heads: int, width: int, features: int, fitted: bool = False) -> Tensors:
        """Gains of 1, an even diagonal core or a normal full one, and a normal W^O. Decays reach
        over 0.5 to 64 tokens, evenly in the logarithm.

        Independent q, k and v of any variance then give outputs of standard deviation about SPREAD,
        small beside hidden states, as those of an untrained softmax attention are. Under full it is
        SPREAD n / length for n tokens; under decay less, since means of independent rows are small.
        """
        shapes = self.shapes(heads, width, features)
        made = {name: torch.ones(shapes[name]) for name in shapes if name.startswith("gain")}
        if self.core == "diagonal":
            made["core"] = torch.zeros(shapes["core"])
        else:
            made["core"] = torch.randn(shapes["core"]) * width**-1.5
        for name in (n for n in shapes if n.startswith("rate")):
            reach = torch.logspace(-1, 6, self.terms, base=2)
            made[name] = -torch.expm1(1 / reach).log()  # sigmoid of it is exp(-1 / reach)
        out = SPREAD * torch.randn(shapes[OUT]) * heads**0.5  # the mean over P divides by sqrt(P)
        made[OUT] = out if self.w_o == "full" else out / shapes[OUT][0]
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
        self.check_length(q.shape[2])
        dtype = q.dtype
        with exact(q):
            if self.w_o != "full":
                found, _ = self._relative((q, k, v), tensors, real, causal, None)
                return (found @ tensors[OUT].flatten(0, 1).to(found)).to(dtype)
            to, back = _full.places(real, q.shape[2])
            q, k, v = (_full.moved(x, to, 2) for x in self._ready((q, k, v), tensors, real))
            mixed = _full.mix(q, k, v, self._core(tensors, q), tensors[OUT], causal)
            return _full.moved(mixed / len(tensors[OUT]), back, 1).to(dtype)

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
        self.check_length(n)
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
        w = tensors[OUT].to(t)
        if self.w_o == "full":
            y = t.flatten(2) @ w[:n, :n].flatten(0, 1) / len(w)  # SplitConcat(T) W^O
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
        """For w_o full: T / length, zero where the text has no tokens. (M, length, length)"""
        length = len(tensors[OUT])
        with exact(q):
            q, k, v = self._ready((q, k, v), tensors, None)
            t = _full.seen(q, k, v, self._core(tensors, q), rows, causal) / length
        short = length - q.shape[2]
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
        """As in `Attention`. The state of w_o full is k and v of all tokens so far, at most
        `length`, and each call costs as much as the whole text."""
        if self.w_o != "full":
            with exact(q):
                found, state = self._relative((q, k, v), tensors, real, True, state)
                return (found @ tensors[OUT].flatten(0, 1).to(found)).to(q.dtype), state
        n = q.shape[2]
        real = torch.ones_like(q[:, 0, :, 0], dtype=torch.bool) if real is None else real
        new = {"k": k, "v": v, "real": real}
        if state is not None:
            new = {x: torch.cat([state[x], new[x]], 1 if x == "real" else 2) for x in new}
        q = nn.functional.pad(q, (0, 0, new["k"].shape[2] - n, 0))
        y = self.apply(q, new["k"], new["v"], tensors, new["real"], causal=True)
        return y[:, -n:], new

    def _relative(
        self, qkv: QKV, tensors: Tensors, real: Tensor | None, causal: bool, state: State | None
    ) -> tuple[Tensor, State]:
        """What decay and conv map, (B, N, S S), and the state."""
        q = qkv[0]
        core = self._core(tensors, q)
        if self.w_o == "conv":
            ahead, scale = 0 if causal else (self.kernel - 1) // 2, self._scale(tensors, q)
            return _windows.conv(qkv, real, scale, core, self.kernel, ahead, state)
        q, k, v = (x.transpose(1, 2) for x in self._ready(qkv, tensors, real))
        of_k, of_v = (tensors[name].to(q) for name in ("rate_k", "rate_v"))
        rates = nn.functional.logsigmoid(of_k), nn.functional.logsigmoid(of_v)
        return _windows.decay(q, k.flatten(2), v.flatten(2), core, rates, state, causal)

    def _ready(self, qkv: QKV, tensors: Tensors, real: Tensor | None) -> QKV:
        """q, k and v normalised, zero on padding, and q with all gains of a diagonal core."""
        q, k, v = (_windows.normal(x, real) for x in qkv)
        return q * self._scale(tensors, q)[:, None], k, v

    def _scale(self, tensors: Tensors, like: Tensor) -> Tensor:
        """What multiplies q, (P, R): 1 / P and, with a diagonal core, the core and all gains."""
        dtype = _windows.wide(like)
        core, q, k, v = (tensors[name].to(dtype) for name in ("core", "gain_q", "gain_k", "gain_v"))
        scale = q / len(core)
        if self.core == "diagonal":
            scale = scale * k * v * core.softmax(-1) * core.shape[1] ** 0.5
        return scale

    def _core(self, tensors: Tensors, like: Tensor) -> Tensor | None:
        """A full core with the gains of k and v, (P, R, R, R); None for a diagonal one."""
        if self.core == "diagonal":
            return None
        dtype = _windows.wide(like)
        core, k, v = (tensors[name].to(dtype) for name in ("core", "gain_k", "gain_v"))
        return core * k[:, None, :, None] * v[:, None, None]

    def check_length(self, length: int) -> None:
        if self.length is not None and length > self.length:
            raise ValueError(
                f"{length} tokens are more than length {self.length}, which w_o full is built for; "
                "decay or conv take any length"
            )
