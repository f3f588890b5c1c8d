"""Numbers as YAML 1.2 writes them: 010 is 10, 0x10 is 16, 1e3 is a thousand, 1_000 is none."""

import re

from tlmtool.failure import show

INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"  # decimal, octal, hexadecimal
FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def number(text: str) -> int | float:
    """The number that a text writes, by the rules of YAML 1.2: 010 is 10, 0x10 is 16, 1e3 is a
    thousand, 1_000 is none. Raises ValueError for what is none, or has thousands of digits."""
    if re.fullmatch(INTEGER, text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if re.fullmatch(FLOAT, text):
        return float(re.sub(r"\.(?=[a-zA-Z])", "", text))  # Python writes inf and nan without
    raise ValueError(f"{show(text)} is not a number")
