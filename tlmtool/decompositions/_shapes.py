"""Sizes of modes: balanced splits, and ranks checked against them."""


def split(n: int) -> tuple[int, int]:
    """n = a b with a <= b, as close to each other as possible."""
    a = int(n**0.5)
    while n % a:
        a -= 1
    return a, n // a


def heads(modes: tuple[int, int] | None, n: int) -> tuple[int, int]:
    """(H, D), how n outputs are split: as `modes` say, else balanced.

    Raises ValueError if H D is not n.
    """
    h, d = modes or split(n)
    if h * d != n:
        raise ValueError(f"modes ({h}, {d}) do not split the {n} outputs of the weight")
    return h, d


def factorized(n: int, order: int) -> tuple[int, ...]:
    """n as a product of `order` balanced factors, largest first.

    Prime factors are dealt out from the largest on, each to the factor that is smallest so far.
    """
    primes, d = [], 2
    while n > 1:
        while n % d == 0:
            primes.append(d)
            n //= d
        d += 1
    sizes = [1] * order
    for p in reversed(primes):
        sizes[sizes.index(min(sizes))] *= p
    return tuple(sorted(sizes, reverse=True))


def capped(rank: int | None, modes: tuple[int, ...], what: str) -> tuple[int, ...]:
    """The rank of each mode: `rank`, but at most the size of the mode; the size itself for None.

    Raises ValueError for a rank below 1, or above every mode.
    """
    if rank is None:
        return tuple(modes)
    if rank < 1:
        raise ValueError(f"rank {rank} is below 1")
    if rank > max(modes):
        raise ValueError(f"rank {rank} is above {max(modes)}, the full rank of {what}")
    return tuple(min(rank, m) for m in modes)
