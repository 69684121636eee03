"""A figure as files: an SVG that is dark where its reader's screen is, and a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BESIDE = "#e3e5e3"
"""Lines of the grid."""
DARK = f"""
@media (prefers-color-scheme: dark) {{
 svg {{fill: #e8eaec}}
 [style*="fill: #ffffff"] {{fill: #1c2024 !important}}
 [style*="stroke: #000000"] {{stroke: #e8eaec !important}}
 [style*="stroke: {BESIDE}"] {{stroke: #3a4148 !important}}
 [style*="stroke: #444444"] {{stroke: #b8bec4 !important}}
 [style*="fill: #444444"] {{fill: #b8bec4 !important}}
}}
"""
"""Paper, ink and grid; the colours of curves are light and dark enough for both."""


def save(figure: Any, stem: Path, seen: str) -> list[Path]:
    """The paths of both files.

    Args:
        figure: of matplotlib, its ink black on white.
        stem: the paths without their ends.
        seen: what there is to be seen, for those who do not see it; the title of the SVG.
    """
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "dragonfly_lit"  # one file for one curve: no dates, no random ids
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    figure.savefig(paths[0], metadata={"Date": None, "Title": seen})
    drawn = paths[0].read_text(encoding="utf-8")
    paths[0].write_text(drawn.replace("</style>", f"{DARK}</style>", 1), encoding="utf-8")
    figure.savefig(paths[1], dpi=160)
    return paths
