"""`crops.cut` in transformers' manner: images in, uint8 crops and grids out, saved as JSON beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from dragonfly_lit.io.remote_code import SavedWithModule, auto_map
from dragonfly_lit.processing.batches import stack_crops
from dragonfly_lit.processing.crops import Resize, cut
from dragonfly_lit.processing.image_inputs import flat, open_image
from dragonfly_lit.spec.layout import Layout, Zoom


class DragonflyImageProcessor(SavedWithModule, BaseImageProcessor):
    """Cuts images into crops; normalisation is the model's.

    Args:
        image_size: side of a crop, in pixels.
        patch_size: side of a patch of the vision tower, in pixels.
        class_token: whether the tower puts a class token before its patches.
        zoom: the fields of `Zoom`.
        resize: `fast`, or `pillow` for the released pixels.
    """

    model_input_names = ["pixel_values", "image_grids"]  # noqa: RUF012
    valid_kwargs = ImagesKwargs

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 32,
        class_token: bool = True,
        zoom: Mapping[str, Any] | None = None,
        resize: Resize = "fast",
        **kwargs: Any,
    ) -> None:
        kwargs.pop("auto_map", None)
        super().__init__(**kwargs)
        self.image_size, self.patch_size, self.class_token = image_size, patch_size, class_token
        self.zoom = asdict(Zoom(**(zoom or {})))
        self.resize: Resize = resize

    @classmethod
    def of(cls, layout: Layout, resize: Resize = "fast") -> DragonflyImageProcessor:
        """The image processor of a layout."""
        return cls(layout.image_size, layout.patch_size, layout.class_token, asdict(layout.zoom), resize)

    @property
    def layout(self) -> Layout:
        return Layout(
            image_size=self.image_size,
            patch_size=self.patch_size,
            class_token=self.class_token,
            zoom=Zoom(**self.zoom),
        )

    def to_dict(self) -> dict[str, Any]:
        """Transformers' own, and where the class is found."""
        return super().to_dict() | {"auto_map": auto_map(AutoImageProcessor="DragonflyImageProcessor")}

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: Any, *, return_tensors: str | None = "pt", fetch: bool = False, **_: Any
    ) -> BatchFeature:
        """`pixel_values` (images, crops, 3, side, side) uint8 and `image_grids` (images, 2, 2); nothing without images.

        Calling the image processor does the same.

        Args:
            images: one image, a list of them however nested, or an array of several; each in any form of ImageInput.
            return_tensors: `pt` or `np`; None is `pt`.
            fetch: whether http URLs are fetched.

        Raises:
            ValueError: an image cannot be decoded or has no pixels.
        """
        layout = self.layout
        crops = [cut(open_image(image, fetch=fetch), layout, self.resize) for image in flat(images)]
        pixel_values, image_grids = stack_crops(crops)
        data = {} if pixel_values is None else {"pixel_values": pixel_values, "image_grids": image_grids}
        return BatchFeature({k: v.numpy() for k, v in data.items()} if return_tensors == "np" else data)
