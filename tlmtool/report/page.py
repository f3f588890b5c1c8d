"""One HTML page of tables and pictures. It needs no network and runs no script.

The pictures are SVG in the page. Their colours are variables of its style, so that they follow the
reader's choice of a light or a dark background.
"""

import re
from html import escape
from typing import NamedTuple

from tlmtool.report.figures import TEXT_COLUMNS, View
from tlmtool.report.picture import COLOURS, GRID, INK, Picture, svg
from tlmtool.report.printable import printable

MARK = '<meta name="generator" content="tlm compare">'  # without it no page is replaced
LIGHTER = ("#56a8e0", "#ff8a3d", "#2fc79a", "#e39cc4", "#e6b422", "#8fd0f5")  # on a dark background
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1b; --soft: #5c5c60; --back: #fff; --grid: #d8d8d9;
  --band: #f4f4f6; --link: #0062b8; SHADES }
@media (prefers-color-scheme: dark) { :root { --ink: #ececee; --soft: #a9a9b0; --back: #17181b;
  --grid: #3c3d42; --band: #212328; --link: #7cc0ff; LIGHTER } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, li, figcaption { max-width: 46rem; }
.note, figcaption, footer { color: var(--soft); font-size: .875em; }
.note { white-space: pre-line; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child, .text { text-align: left; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
tbody tr:nth-child(even) { background: var(--band); }
.pictures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; }
figure svg text { font-family: inherit; }
details { margin: .5rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .75rem; background: var(--band); font-size: .8125rem; }
:focus-visible { outline: 2px solid var(--link); }
@media (max-width: 40rem) { th, td { padding: .3rem .4rem; font-size: .875rem; } }
@media print { body { max-width: none; padding: 0; font-size: 11px; } .details { display: none; }
  .wide { overflow: visible; } .pictures { grid-template-columns: 1fr 1fr; }
  tr, h2 { break-inside: avoid; break-after: auto; } h2 { break-after: avoid; } }
"""


class Detail(NamedTuple):
    """What a page shows of one result when it is opened: its name and its text."""

    name: str
    text: str


def page(
    title: str,
    about: str,
    views: list[View],
    pictures: list[Picture],
    notes: list[str],
    details: list[Detail],
) -> str:
    """The page. `about`: the paragraph below the title; `notes`: what readers must know of it."""
    shades = " ".join(f"--c{i}: {each};" for i, each in enumerate(COLOURS))
    lighter = " ".join(f"--c{i}: {each};" for i, each in enumerate(LIGHTER))
    style = STYLE.replace("SHADES", shades).replace("LIGHTER", lighter)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"{MARK}\n<title>{_text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>",
        f"<h1>{_text(title)}</h1>\n<p>{_text(about)}</p>",
    ]
    if notes:
        parts.append("<ul>" + "".join(f"<li>{_text(each)}</li>" for each in notes) + "</ul>")
    parts += [_table(view) for view in views if view.rows]
    if pictures:
        parts.append('<h2>Pictures</h2>\n<div class="pictures">')
        parts += [_figure(each) for each in pictures]
        parts.append("</div>")
    if details:
        parts.append('<section class="details">\n<h2>Each result</h2>')
        for each in details:
            parts.append(
                f"<details><summary>{_text(each.name)}</summary><pre>{_text(each.text)}</pre>"
                "</details>"
            )
        parts.append("</section>")
    parts.append("</main>\n</body>\n</html>\n")
    return "\n".join(parts)


def _text(text: str) -> str:
    return escape(printable(text))


def _table(view: View) -> str:
    kinds = ["", *(" class=text" if n in TEXT_COLUMNS else "" for n in view.header[1:])]

    def line(cells: list[str], tag: str, more: str = "") -> str:
        found = (f"<{tag}{more}{k}>{_text(c)}</{tag}>" for c, k in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(found)}</tr>"

    rows = "\n".join(line(row, "td") for row in view.rows)
    note = f'<p class="note">{_text(view.note)}</p>' if view.note else ""
    title = _text(view.title[:1].upper() + view.title[1:])
    return (
        f'<section>\n<h2>{title}</h2>\n<div class="wide" tabindex="0" role="region" '
        f'aria-label="{title}"><table>\n<thead>{line(view.header, "th", " scope=col")}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n{note}\n</section>"
    )


def _figure(picture: Picture) -> str:
    """A picture in the page, with its caption as text."""
    label = _text(f"{picture.title}. {picture.caption}")
    return (
        f"<figure>\n{inline(svg(picture), picture.name, label)}\n"
        f"<figcaption>{_text(picture.caption)}</figcaption>\n</figure>"
    )


def inline(text: str, name: str, label: str) -> str:
    """An SVG file as an element of a page: ids that are its own, colours of the page, any size.
    `label`: what it shows, as escaped text."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    for place, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{place})")
    text = text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    head, end, rest = text.partition(">")
    head = re.sub(r' (width|height|version|xmlns[:\w]*)="[^"]*"', "", head)
    rest = rest.replace("xlink:href", "href")
    return f'{head} role="img" aria-label="{label}"{end}{rest}'
