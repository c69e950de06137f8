"""The report of a run: one self-contained page."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .6rem 0; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid #bbb; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .85rem; }
.note { color: #666; }
"""


def render(
    title: str,
    *,
    summary: str,
    results: Sequence[tuple[str, str, str]],
    figures: Sequence[tuple[str, str, Path]],
    config: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """The page as HTML, images inside.

    Args:
        title: Heading.
        summary: One sentence under it.
        results: Rows of (quantity, value, how it was obtained).
        figures: Headings, captions and PNG files.
        config: Configuration of the run.
        versions: Versions of the packages.

    Returns:
        The page.
    """
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=number>{html.escape(value)}</td>"
        f"<td class=note>{html.escape(note)}</td></tr>"
        for name, value, note in results
    )
    pictures = "".join(
        f"<h2>{html.escape(heading)}</h2><p class=note>{html.escape(caption)}</p>"
        f'<img alt="{html.escape(heading)}" '
        f'src="data:image/png;base64,{_encode(path)}">'
        for heading, caption, path in figures
    )
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>"
        f"<h2>Result</h2><table><tr><th>Quantity<th>Value<th>How</tr>{rows}</table>"
        f"{pictures}<h2>Configuration</h2>"
        f"<pre>{html.escape(json.dumps(config, indent=2))}</pre>"
        f"<p class=note>{html.escape(used)}</p></html>\n"
    )


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
