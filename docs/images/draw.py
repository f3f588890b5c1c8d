"""Draws the picture of the README, for light and dark pages: `python docs/images/draw.py`."""

from pathlib import Path

HERE = Path(__file__).parent
WIDTH, HEIGHT = 900, 340
COLOURS = {  # page: text, faint text, the dense matrix, the factors
    "light": ("#1f2328", "#59636e", "#9aa7b4", "#2f7fd1"),
    "dark": ("#f0f6fc", "#9198a1", "#6e7a87", "#58a6ff"),
}
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


def box(x: int, y: int, width: int, height: int, colour: str) -> str:
    """A matrix: its sides are its shape."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" '
        f'fill="{colour}" fill-opacity="0.75" stroke="{colour}" stroke-width="1.5"/>'
    )


def text(x: int, y: int, words: str, colour: str, size: int = 15, anchor: str = "start") -> str:
    """A line of words; `anchor` says which end of it is at x."""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}">{words}</text>'
    )


def arrow(x: int, y: int, width: int, colour: str) -> str:
    """From left to right."""
    line = f"M{x} {y}h{width}m-8 -6l8 6l-8 6"
    return f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'


def heading(y: int, command: str, words: str, ink: str, faint: str) -> str:
    """A command, and beside it in smaller letters what it does."""
    beside = f'<tspan dx="10" font-size="15" fill="{faint}">{words}</tspan>'
    return text(24, y, command + beside, ink, 18)


def picture(ink: str, faint: str, dense: str, factors: str) -> str:
    """Two rows: what `tlm compress` does to a matrix, and what `tlm finetune` may do to it."""
    parts = [
        heading(28, "tlm compress", "keeps fewer numbers", ink, faint),
        box(40, 48, 84, 84, dense),
        text(82, 152, "147,456 numbers", faint, 13, "middle"),
        arrow(144, 90, 64, faint),
        text(176, 76, "your text", faint, 13, "middle"),
        box(230, 48, 21, 84, factors),
        text(267, 96, "×", ink, 18, "middle"),
        box(283, 80, 84, 21, factors),
        text(298, 152, "73,728 numbers", faint, 13, "middle"),
        arrow(392, 90, 64, faint),
        text(476, 74, "a smaller checkpoint that transformers loads,", ink),
        text(476, 95, "and a report of what was saved and what was lost", ink),
        heading(202, "tlm finetune --strategy dynamic", "trains more numbers", ink, faint),
        box(40, 222, 84, 84, dense),
        text(82, 326, "147,456 numbers", faint, 13, "middle"),
        arrow(144, 264, 64, faint),
        text(176, 250, "exact", faint, 13, "middle"),
        *(box(230 + 92 * i, 222, 84, 84, factors) for i in range(3)),
        text(364, 326, "three times as many, trained", faint, 13, "middle"),
        arrow(520, 264, 64, faint),
        text(552, 250, "merge", faint, 13, "middle"),
        box(606, 222, 84, 84, dense),
        text(710, 258, "an ordinary checkpoint", ink),
        text(710, 279, "of the old size", ink),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img" font-family="{FONT}">',
            "<title>tlm compress turns a large matrix into a product of smaller ones; "
            "tlm finetune turns it into a larger product, trains that and merges it</title>",
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    for page, colours in COLOURS.items():
        (HERE / f"tlm-{page}.svg").write_text(picture(*colours), encoding="utf-8")
