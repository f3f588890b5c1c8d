"""Long names in few letters, of which no two become one."""

import re
from collections.abc import Sequence
from itertools import takewhile

PARTS = re.compile(r"[^,/:]+[,/:]* *|^[,/: ]+")  # of the name of a result: 'lr=0.1,' of a point
END = 4  # letters of a word that stay at the ends of what is left out


def shortened(names: Sequence[str], most: int) -> list[str]:
    """The names, each in at most so many letters; what those that are longer share gives way first.

    >>> shortened(["method=svd,lr=0.1,batch=8", "method=svd,lr=0.2,batch=8"], 16)
    ['lr=0.1', 'lr=0.2']
    """
    for cut in (_ends, _without_shared, _between):
        long = list(dict.fromkeys(name for name in names if len(name) > most))
        by_name = dict(zip(long, cut(long, most), strict=True))
        found = [by_name.get(name, name) for name in names]
        if len({*found}) == len({*names}):
            return found
    order = list(dict.fromkeys(names))
    marks = [f"{order.index(name) + 1}: " for name in names]
    texts = dict(zip(order, _without_shared(order, max(map(len, order))), strict=True))
    return [m + _middle(texts[n], most - len(m)) for m, n in zip(marks, names, strict=True)]


def _ends(names: list[str], most: int) -> list[str]:
    return [_middle(name, most) for name in names]


def _without_shared(names: list[str], most: int) -> list[str]:
    """Without the parts that all have in common."""
    parts = [PARTS.findall(name) for name in names]
    if len({len(each) for each in parts}) > 1:
        return _ends(names, most)
    kept = [i for i, each in enumerate(zip(*parts, strict=True)) if len({*each}) > 1]
    texts = ["".join(each[i] for i in kept).rstrip(",/: ") for each in parts]
    return _ends([text or name for text, name in zip(texts, names, strict=True)], most)


def _between(names: list[str], most: int) -> list[str]:
    """Without the letters at the start and at the end that all have in common."""
    first, last = _shared(names), _shared([name[::-1] for name in names])
    texts = [name[first : len(name) - last] for name in names]
    return [_middle(f"..{text}", most) for text in texts]


def _shared(names: list[str]) -> int:
    """How many letters at the start all have in common, but for those that stay."""
    alike = takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False))
    return max(0, sum(1 for _ in alike) - END)


def _middle(name: str, most: int) -> str:
    """The name without its middle."""
    if len(name) <= most:
        return name
    half = (most - 2) // 2
    return f"{name[:half]}..{name[-(most - 2 - half) :]}"
