"""A table of a report in LaTeX."""

from tlmtool.report.figures import TEXT_COLUMNS, View

ESCAPES = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would be an option of the line break before
}


def latex(view: View) -> str:
    """A table in LaTeX, with its note as a comment."""
    columns = "l" + "".join("l" if n in TEXT_COLUMNS else "r" for n in view.header[1:])

    def line(cells: list[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    head = [f"% {each}" for each in (view.title, *view.note.split("\n")) if each]
    body = [line(view.header), r"\hline", *map(line, view.rows)]
    return "\n".join([*head, rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"])


def _escaped(text: str) -> str:
    return "".join(ESCAPES.get(letter, letter) for letter in text)
