"""One picture: what it shows, and how it becomes SVG or PNG by matplotlib."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Any

from tlmtool.report.naming import shortened

# Okabe and Ito's colours, which colour-blind people can tell apart. The page has its own shades of
# them for a dark background. Markers and dashes differ too, for print in black and white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#3f9bd0")
MARKERS, DASHES = "os^Dvp", ("-", "--", "-.", ":")
INK, GRID = "#1a1a1b", "#d8d8d9"  # of text and of lines; a page replaces them by its own
MOST = 12  # lines of one picture; more could not be told apart
MARKS = (b"Software\0tlm", b"<dc:title>tlm</dc:title>")  # in each picture that is drawn here
LONGEST = 100  # letters of the name of a file; a longer one ends in a checksum
SIZE = (4.6, 3.5)  # inches of a picture: its text stays readable at the width of a phone


@dataclass(frozen=True)
class Picture:
    """A picture. `caption`: what it shows, in a sentence; `draw`: draws it on the axes it is
    given."""

    title: str
    caption: str
    draw: Callable[[Any], None]

    @property
    def name(self) -> str:
        """Its title as the name of a file."""
        name = re.sub(r"\W+", "-", self.title.lower())
        mark = sha256(name.encode()).hexdigest()[:8]
        return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{mark}"


def svg(picture: Picture) -> str:
    """The picture as SVG, whose text is text and whose ids are its own."""
    return _drawn([picture], "svg").decode()


def png(picture: Picture) -> bytes:
    """The picture as PNG, on white."""
    return _drawn([picture], "png")


def together(pictures: list[Picture]) -> bytes:
    """Several pictures beside each other, as one PNG."""
    return _drawn(pictures, "png")


def _drawn(pictures: list[Picture], kind: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": pictures[0].name,
        "text.parse_math": False,  # names may hold dollar signs
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "font.size": 9,
        "legend.fontsize": 8,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(SIZE[0] * len(pictures), SIZE[1]), layout="constrained")
        every = figure.subplots(1, len(pictures), squeeze=False)[0]
        for axes, picture in zip(every, pictures, strict=True):
            picture.draw(axes)
            axes.set_title(picture.title, fontsize=10)
            axes.grid(True, color=GRID, linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        content = BytesIO()
        meta = {"Date": None, "Creator": "tlm"} if kind == "svg" else {"Software": "tlm"}
        if kind == "svg":
            figure.patch.set_alpha(0)
            for axes in every:
                axes.patch.set_alpha(0)
        figure.savefig(content, format=kind, dpi=150, metadata=meta)
    return content.getvalue()


def style(place: int) -> dict[str, Any]:
    """Colour, marker and dash of the line at a place."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
        "markersize": 4.5,
        "linewidth": 1.4,
    }


def brief(names: Iterable[str], most: int = 24) -> dict[str, str]:
    """{name: the name in few letters, which tells results apart}"""
    names = list(names)
    return dict(zip(names, shortened(names, most), strict=True))
