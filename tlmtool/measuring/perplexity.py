"""The perplexity of a causal language model on one text, in sliding windows of its tokens.

This is the number that papers and model cards report: the text is tokenized whole, and every token
but the first is predicted exactly once. `measuring.losses` measures texts one by one instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tlmtool.data.batching import Batch
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.inputs import check_token, inputs_once, name_of
from tlmtool.measuring.intervals import paired_interval
from tlmtool.measuring.logits import logits_in_parts
from tlmtool.measuring.losses import exponential, objective_of
from tlmtool.measuring.outputs import Tick, evaluating, position_limit

WINDOW = 2048  # tokens of a window by default; perplexities of other windows are not comparable
AT_ONCE = 8192  # tokens in one forward pass; more take more memory, and less time on a GPU
ENOUGH = 4000  # with fewer tokens a warning says that the figure is rough
CONTEXTS = ("max_position_embeddings", "max_seq_len", "seq_length")  # what configs call it


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `stop` are read at once, and those from `first` on are predicted. The
    first one can only be predicted if a begin token is read before it."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True)
class Perplexity:
    """The NLL in nats (`sums`) and the number of predicted tokens (`counts`) of each window."""

    window: int
    stride: int
    begin: bool  # whether a begin token was read before each window
    sums: np.ndarray
    counts: np.ndarray

    def statistic(self, index: np.ndarray) -> np.ndarray:
        """Mean NLL per token of resampled windows: index (S, n) -> (S,)."""
        return self.sums[index].sum(-1) / self.counts[index].sum(-1)

    @property
    def tokens(self) -> int:
        """How many tokens were predicted."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean NLL per token, in nats."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def perplexity(self) -> float | None:
        """e to the power of the mean; None where a float cannot hold it."""
        return exponential(self.mean)

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """A 95 % interval of the mean in nats by resamples of the windows; None for one window."""
        try:
            return paired_interval(
                self.statistic, lambda index: np.zeros(len(index)), len(self.sums), seed
            )
        except Failure:
            return None


def context_of(model: nn.Module) -> int | None:
    """The tokens that a model was made to read at once, by its config; None where it has no
    limit."""
    config = model.config.get_text_config()
    told = next((n for key in CONTEXTS if (n := getattr(config, key, None))), None)
    return min(filter(None, [told, position_limit(model)]), default=None)


def windows(tokens: int, window: int, stride: int, begin: bool = False) -> list[Window]:
    """The windows of a text of this many tokens. Each token is in exactly one of them as a token to
    predict; without a begin token before each window, the first one of the text is in none.

    A window ends `stride` tokens after the one before it, and holds `window` tokens. Without a
    begin token, and with `stride` equal to `window`, it also holds the last token before it, from
    which its own first one is predicted. Raises Usage for a stride longer than the window.
    """
    if not 1 <= stride <= window:
        raise Usage(f"stride is {stride}; it must be from 1 to {window}, the window")
    if window < 2:
        raise Usage("window is 1; a token can only be predicted from one before it: at least 2")
    found, done = [], 0 if begin else 1
    for start in range(0, tokens, stride):
        stop = min(start + window, tokens)
        if done < stop:
            found.append(Window(start if begin else min(start, done - 1), done, stop))
        done = stop
        if stop == tokens:
            break
    return found


def perplexity(
    model: nn.Module,
    ids: list[int],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch: int = 32,
    limit: int | None = None,
    tick: Tick | None = None,
) -> Perplexity:
    """The perplexity of a causal language model on the tokens of a text (`joined_ids`).

    Where the tokens start with the begin token of the model's config, each window does: gemma, for
    one, predicts badly in a window without it.

    `window`: tokens that are read at once, by default 2,048 or the model's context where that is
    shorter. `stride`: how far each window is moved on, by default the window; each token then sees
    from 1 to `window` tokens before it. `limit`: only the first tokens are read. `tick` is called
    with the number of tokens that were predicted.

    Raises Usage for another kind of model, for a window that its positions do not allow, and for
    fewer than two tokens; Failure for a loss that is not finite.
    """
    refuse(model)
    window = window_of(model, window)
    ids = ids[:limit]
    if len(ids) < 2:
        raise Usage(f"perplexity needs two tokens of text or more; {len(ids)} were given")
    check_token(model, max(ids))
    begin = ids[:1] if ids[0] == begin_of(model) else []
    tokens = torch.tensor(ids[len(begin) :])
    parts = windows(len(tokens), window, stride or window, bool(begin))
    sums = np.zeros(len(parts))
    counts = np.array([part.stop - part.first for part in parts])
    with evaluating(model), torch.no_grad():
        for places in _alike(parts, max(1, min(batch, AT_ONCE // window))):
            chosen = [parts[i] for i in places]
            sums[places] = _window_sums(model, begin, tokens, chosen)
            if tick:
                tick(int(counts[places].sum()))
    if not np.isfinite(sums).all():
        wrong = f"{int((~np.isfinite(sums)).sum())} of {len(sums)} windows"
        raise Failure(f"the loss of {name_of(model)} is not finite on {wrong}")
    return Perplexity(window, stride or window, bool(begin), sums, counts)


def begin_of(model: nn.Module) -> int | None:
    """The begin token of the model's config, or else of its generation config."""
    own = getattr(model.config.get_text_config(), "bos_token_id", None)
    return (
        own
        if own is not None
        else getattr(getattr(model, "generation_config", None), "bos_token_id", None)
    )


def refuse(model: nn.Module) -> None:
    """Raises Usage for a model that does not predict each next token from those before it."""
    objective = objective_of(model)
    if objective == "clm":
        return
    found = {
        "mlm": "is a masked language model, which reads both sides of a token: use --task mlm",
        "seq2seq": "is an encoder-decoder, which reads a source text beside the target: use "
        "--task clm",
        None: f"is a {type(model).__name__}, which has no language-modelling head",
    }
    raise Usage(f"perplexity is of causal language models; {name_of(model)} {found[objective]}")


def window_of(model: nn.Module, asked: int | None = None) -> int:
    """The window that is asked for, or the default of this model. Raises Usage for one that is
    longer than its positions allow."""
    limit = position_limit(model)
    if asked is None:
        return min(filter(None, [WINDOW, context_of(model)]))
    if limit is not None and asked > limit:
        raise Usage(f"window is {asked}; {name_of(model)} reads at most {limit} tokens at once")
    return asked


def beyond(model: nn.Module, window: int) -> list[str]:
    """A warning where a window is longer than what the model was made to read at once."""
    limit = context_of(model)
    if limit is None or window <= limit:
        return []
    return [
        f"the window of {window} tokens is longer than the {limit} {name_of(model)} is made for"
    ]


def rough(tokens: int) -> list[str]:
    """A warning where a perplexity is of few tokens."""
    if tokens >= ENOUGH:
        return []
    return [f"the perplexity is of {tokens:,} tokens alone: {ENOUGH:,} or more make it reliable"]


def _alike(parts: list[Window], batch: int) -> Iterator[list[int]]:
    """The places of windows that can be read together, in order: they read and predict as many
    tokens, so that no padding is needed."""
    held: list[int] = []
    for i, part in enumerate(parts):
        first = parts[held[0]] if held else part
        same = (part.stop - part.start, part.stop - part.first) == (
            first.stop - first.start,
            first.stop - first.first,
        )
        if held and (not same or len(held) == batch):
            yield held
            held = []
        held.append(i)
    if held:
        yield held


def _window_sums(
    model: nn.Module, begin: list[int], tokens: Tensor, parts: list[Window]
) -> np.ndarray:
    """The summed NLL (B,), float64, of the predicted tokens of windows of equal lengths."""
    first = torch.tensor(begin, dtype=tokens.dtype)  # the begin token, if there is one
    ids = torch.stack([torch.cat([first, tokens[p.start : p.stop - 1]]) for p in parts])  # (B, N)
    wanted = torch.stack([tokens[part.first : part.stop] for part in parts])  # (B, predicted)
    ones = torch.ones_like(ids)
    read = Batch([], {"input_ids": ids, "attention_mask": ones}, torch.zeros_like(ids).bool())
    inputs = inputs_once(model, read)
    device = inputs["input_ids"].device
    places = torch.arange(ids.shape[1], device=device) >= ids.shape[1] - wanted.shape[1]
    found = [
        cross_entropy(logits, targets, reduction="none").cpu().double()
        for logits, targets in logits_in_parts(
            model, inputs, places.expand(ids.shape), wanted.flatten().to(device)
        )
    ]
    return torch.cat(found).view(wanted.shape).sum(1).numpy()
