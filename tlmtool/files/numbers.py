"""Reads numbers by the rules of YAML 1.2, where 010 is 10, 0x10 is 16, 1e3 is 1000 and 1_000 is
text; and sizes such as 8GB."""

import re

from tlmtool.failure import show

INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"  # decimal, octal, hexadecimal
FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def number(text: str) -> int | float:
    """The number that a text is by YAML 1.2. Raises ValueError for a text that is no number, or
    that has thousands of digits."""
    if re.fullmatch(INTEGER, text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if re.fullmatch(FLOAT, text):
        return float(re.sub(r"\.(?=[a-zA-Z])", "", text))  # Python writes inf and nan without a dot
    raise ValueError(f"{show(text)} is not a number")


def size(text: str) -> int:
    """The bytes of a size: 8GB is 8 * 10**9, 8GiB is 8 * 2**30. Raises ValueError otherwise."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(i?)B", text)
    if found is None:
        raise ValueError(f"{show(text)} is not a size")
    amount, prefix, binary = found.groups()
    return int(float(amount) * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))
