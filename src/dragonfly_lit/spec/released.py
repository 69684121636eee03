"""What the two released versions look at: their zoom and the geometry of the vision tower they came with."""

from __future__ import annotations

from typing import Literal, get_args

from dragonfly_lit.spec.layout import Layout, Zoom

Version = Literal["v1", "v2"]

ZOOMS: dict[Version, Zoom] = {
    "v1": Zoom(high_crops=24, high_grid="best", top_k=3, regions="raster"),
    "v2": Zoom(high_crops=36, high_grid="medium", top_k=None, regions="raster", pool=4),
}
LAYOUTS: dict[Version, Layout] = {
    "v1": Layout(image_size=224, patch_size=32, class_token=True, zoom=ZOOMS["v1"]),
    "v2": Layout(image_size=336, patch_size=14, class_token=True, zoom=ZOOMS["v2"]),
}
"""Layouts with the released towers, CLIP ViT-B/32 at 224 and ViT-L/14 at 336 pixels."""


def released_zoom(version: str) -> Zoom:
    """The zoom of a released version, or a ValueError that names the versions there are."""
    if version not in get_args(Version):
        raise ValueError(f"version={version!r} is not a released Dragonfly. Use one of {', '.join(get_args(Version))}.")
    return ZOOMS[version]  # pyright: ignore[reportArgumentType]  (checked just above)
