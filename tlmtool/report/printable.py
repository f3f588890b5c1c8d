"""Text from files, names and other programs, made safe for a terminal."""

import re

# C0 but for tab and line end, DEL, C1; marks that turn the direction of writing; lone surrogates
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text, each character that a terminal would obey written as its number: \\u001b for ESC.

    JSON and YAML within double quotes read that as the character itself.
    """
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
