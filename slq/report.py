"""Floor 4: a result as one self-contained HTML page."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from slq.plotting import save_figure

__all__ = ["html_page"]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1.5rem 0; } img { width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; margin-top: 1.8rem; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #888; }
"""


def html_page(
    title: str, paragraphs: Sequence[str], ax: Any, caption: str, tables: Sequence[tuple[str, Sequence[Sequence[str]]]]
) -> str:
    """Compose a page that needs no network: text, the figure of `ax` inside, and tables.

    Parameters
    ----------
    title : str
    paragraphs : sequence of str
    ax : matplotlib.axes.Axes
        Its figure is embedded as PNG.
    caption : str
        Also the figure's alternative text.
    tables : sequence of (caption, rows)
        The first row of each holds the headings.

    Returns
    -------
    str
        HTML; every text is escaped.
    """
    image = io.BytesIO()
    save_figure(ax, image)
    source = base64.b64encode(image.getvalue()).decode("ascii")
    text = "\n".join(f"<p>{html.escape(p)}</p>" for p in paragraphs)
    alternative = html.escape(caption)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{text}
<figure>
<img src="data:image/png;base64,{source}" alt="{alternative}">
<figcaption>{alternative}</figcaption>
</figure>
{"".join(_table(*table) for table in tables)}
</body>
</html>
"""


def _table(caption: str, rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([html.escape(cell) for cell in row] for row in rows)
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    heading = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    return (
        f"<table>\n<caption>{html.escape(caption)}</caption>\n<thead><tr>{heading}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>\n"
    )
