"""The state of causal kernels in a cache of transformers, so that `generate` goes on by tokens."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache


class StateLayer(CacheLayerMixin):
    """The layer of a cache that holds the state of a causal kernel, of a size free of N."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Tensor] | None = None
        self.seen = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """The new keys and values alone: the past is in the state."""
        self.seen += key_states.shape[-2]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.state, self.seen = None, 0

    def offload(self) -> None:
        pass

    def prefetch(self) -> None:
        pass

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
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
    if not isinstance(cache.layers[index], StateLayer):
        if cache.layers[index].get_seq_length():
            raise ValueError("a cache that softmax attention has filled cannot go on with a kernel")
        cache.layers[index] = StateLayer()
    return cache.layers[index]
