"""What a processor is called with: texts, images however nested, and the arguments that others give to every one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig

from dragonfly_lit.processing.image_inputs import ImageInput, flat, is_image
from dragonfly_lit.spec.tokens import IMAGE

Images = ImageInput | Sequence[ImageInput] | None
"""Of one text."""
_OWN_WAY = (
    "return_attention_mask",
    "return_token_type_ids",
    "return_mm_token_type_ids",
    "return_offsets_mapping",
    "common_kwargs",
    "text_kwargs",
    "images_kwargs",
    "truncation",
    "videos",
    "audio",
)
"""Arguments that transformers gives to every processor; here they may only say what is done anyway."""
OF_CALL = (
    "padding",
    "padding_side",
    "pad_to_multiple_of",
    "max_length",
    "add_special_tokens",
    "supervise",
    "return_tensors",
    "fetch",
    *_OWN_WAY,
)


def is_text(text: Any) -> bool:
    """Whether it is a text, or a list of some."""
    return isinstance(text, str) or (
        isinstance(text, list | tuple) and bool(text) and all(isinstance(part, str) for part in text)
    )


def check_others(others: dict[str, Any], return_tensors: str | None, padding: bool | str) -> None:
    """Refuse what a processor does not do.

    Args:
        others: arguments beside those that the call names.
        return_tensors: of the call.
        padding: of the call.

    Raises:
        ValueError: an argument is unknown, or asks for what is not done here.
    """
    if return_tensors not in ("pt", "np", None) or (return_tensors and padding in (False, "do_not_pad")):
        raise ValueError(
            f"return_tensors={return_tensors!r}, padding={padding!r}: a DragonflyProcessor makes padded torch tensors "
            "(return_tensors='pt', padding=True), numpy arrays ('np'), or lists (None)."
        )
    for name, value in others.items():
        if name == "return_assistant_tokens_mask":
            continue
        if name not in _OWN_WAY:
            if name in vars(GenerationConfig()):  # a pipeline hands on what it gets
                raise ValueError(
                    f"{name}={value!r:.60} is an argument of generate, not of a processor. In a pipeline give "
                    f"generate_kwargs={{{name!r}: {value!r:.60}}}."
                )
            raise ValueError(f"a DragonflyProcessor does not know {name}={value!r:.60}. It knows {', '.join(OF_CALL)}.")
        if name.endswith("_kwargs") and value:
            raise ValueError(f"{name}={value!r:.60}: give its keys as arguments of their own.")
        if name in ("videos", "audio") and value is not None:
            raise ValueError(f"a DragonflyProcessor reads text and images; {name}= is neither.")
        if name == "truncation" and value:
            raise ValueError(
                f"truncation={value!r} would cut the tokens of an image in two. Shorten the text, or raise max_length."
            )


def nest_images(images: Any, texts: list[str], *, single: bool) -> list[list[ImageInput]]:
    """Images as one list a text.

    Args:
        images: as the call has them: None, one, a flat list, or a list of lists.
        texts: of the call; in a flat list each takes as many images as it has placeholders.
        single: whether one text was given, and no list.

    Raises:
        ValueError: they are not as many as the texts.
    """
    if images is None:
        return [[] for _ in texts]
    if is_image(images) or single:
        images = [flat(images)]
    images = list(images)
    if images and all(image is not None and is_image(image) for image in images):
        counts = [text.count(IMAGE) for text in texts]
        if sum(counts) == len(images):
            found = iter(images)
            return [[next(found) for _ in range(count)] for count in counts]
        if len(texts) == 1:
            return [images]
    if len(images) != len(texts):
        raise ValueError(
            f"images has {len(images)} entries for {len(texts)} texts. Give each an image, a list of images or None."
        )
    return [flat(image) for image in images]
