"""The state of causal kernels in a cache of transformers, so that `generate` goes on by tokens."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache, StaticLayer

from tlmtool.attention.base import Attention, State, Tensors

Given = tuple[tuple[Tensor, Tensor, Tensor], Tensors, Tensor | None]  # q, k, v; tensors; real


class StateLayer(CacheLayerMixin):
    """The layer of a cache that holds the state of a causal kernel, of a size free of N.

    `room`: of how many tokens masks are made, where the layers beside it have a fixed length; -1 of
    those that are there. What a state has read cannot be taken out of it again, so once
    `activate_past_recording` is called (as assisted decoding does) the tokens since the last `crop`
    are kept beside the state before them.
    """

    is_croppable = True
    is_compileable = property(lambda self: self.room >= 0)  # else masks are left out beside it

    def __init__(self, room: int = -1) -> None:
        super().__init__()
        self.state: State | None = None
        self.seen, self.room = 0, room
        self.record_past = False
        self.past: list[tuple[State | None, Attention, Given]] = []
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """The new keys and values alone: the past is in the state."""
        self.seen += key_states.shape[-2]
        return key_states, value_states

    def stream(self, kernel: Attention, *given: Any) -> Tensor:
        """What `kernel.stream` gives for the next tokens, whose `seen` is counted already; the
        state goes on."""
        if self.record_past:
            self.past.append((self.state, kernel, given))
        qkv, tensors, real = given
        mixed, self.state = kernel.stream(*qkv, tensors, self.state, real)
        return mixed

    def activate_past_recording(self) -> None:
        """Keep what `crop` needs from now on."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -`tokens_to_remove` tokens, all of which came since the last call; raises
        ValueError for others."""
        left = -tokens_to_remove
        if left < 0 or left > sum(qkv[0].shape[2] for _, _, (qkv, *_) in self.past):
            raise ValueError(
                f"crop({tokens_to_remove}) cannot be: a kernel's state forgets tokens read since "
                "activate_past_recording() and the last crop, as a negative number; else give a "
                "new cache and the whole text"
            )
        while left:
            self.state, kernel, (qkv, tensors, real) = self.past.pop()
            n = qkv[0].shape[2]
            self.seen, stay = self.seen - min(left, n), max(n - left, 0)
            if stay:
                kept = real if real is None else real[:, :stay]
                qkv = [x[:, :, :stay] for x in qkv]
                self.state = kernel.stream(*qkv, tensors, self.state, kept)[1]
            left -= n - stay
        self.past = []

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length if self.room < 0 else self.room, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return self.room

    def reset(self) -> None:
        self.state, self.seen, self.past = None, 0, []

    def offload(self) -> None:
        pass

    def prefetch(self) -> None:
        pass

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        self.past = []  # of the rows that were
        if self.state is not None:
            self.state = {name: change(tensor) for name, tensor in self.state.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._each(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda t: t.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda t: t[indices])


def layer_of(cache: Cache | None, index: int) -> StateLayer | None:
    """The layer of a cache that belongs to a converted module, ours from its first use on."""
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if cache is None:
        return None
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    held = cache.layers[index]
    if not isinstance(held, StateLayer):
        if held.get_seq_length():
            raise ValueError("a cache that softmax attention has filled cannot go on with a kernel")
        held = StateLayer(held.max_cache_len if isinstance(held, StaticLayer) else -1)
        cache.layers[index] = held
    return held
