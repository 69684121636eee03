"""Text and images to the model's inputs in transformers' manner, through the functions that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from dragonfly_lit.io.foreign import foreign, read_json, read_model_config
from dragonfly_lit.processing.batches import Side, pad_rows
from dragonfly_lit.processing.crops import Resize
from dragonfly_lit.processing.encoding import TokenizedText, expand_images, to_row, tokenize
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor, ImageInput
from dragonfly_lit.processing.sequences import Supervise
from dragonfly_lit.spec.layout import Layout
from dragonfly_lit.spec.released import LAYOUTS, released_zoom
from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, END_HEADER, END_OF_TURN, IGNORE, IMAGE, START_HEADER, special_ids

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.content is not string %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '" + IMAGE + "' }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{{ '" + BEGIN_OF_TEXT + "' }}"
    "{% for message in messages %}{{ '" + START_HEADER + "' + message.role + '" + END_HEADER + "\\n\\n' }}"
    "{% if message.content is string %}{{ message.content | trim }}{% else %}"
    "{% set text = message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') %}"
    "{{ text | trim }}{% endif %}{{ '" + END_OF_TURN + "' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + START_HEADER + "assistant" + END_HEADER + "\\n\\n' }}{% endif %}"
)
"""Images first, then `<|begin_of_text|>`, then the turns: what `prompts.render` writes, in Jinja."""

Images = ImageInput | Sequence[ImageInput] | None


class DragonflyProcessor(ProcessorMixin):
    """Tokenizer and image processor of one Dragonfly.

    Args:
        image_processor: cuts the images, and says how many tokens one takes.
        tokenizer: a fast tokenizer that knows the structural tokens.
        chat_template: Jinja; CHAT_TEMPLATE where None.
        max_length: tokens that the language model takes at most; None does not check.
    """

    def __init__(
        self,
        image_processor: DragonflyImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        if image_processor is None or tokenizer is None:
            raise ValueError("a DragonflyProcessor needs image_processor= and tokenizer=; one of them is None.")
        self.max_length = max_length
        self.ids = special_ids(tokenizer)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_released(
        cls,
        folder: str | Path,
        *,
        vision: str | Path | None = None,
        version: str = "v1",
        resize: Resize = "fast",
    ) -> DragonflyProcessor:
        """The processor of a released checkpoint.

        Args:
            folder: the checkpoint, with its tokenizer.
            vision: folder of the vision tower, or its name in the local cache; only its config is read. None takes the
                geometry of the tower that the version was released with.
            version: `v1` or `v2`.
            resize: `pillow` gives the released pixels, `fast` is at most 2 grey levels away.

        Raises:
            ValueError: a file is missing, or the version is unknown.
        """
        released_zoom(version)  # refuses an unknown version
        layout = LAYOUTS["v1" if version == "v1" else "v2"]
        if vision is not None:
            layout = _with_tower(layout, vision)
        with foreign(f"the tokenizer of {folder}", folder):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return cls(DragonflyImageProcessor.of(layout, resize), tokenizer, max_length=_context(Path(folder)))

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: str | Path, *_: Any, **kwargs: Any) -> list:
        # The inherited one asks AutoImageProcessor, which wants torchvision for classes that it does not know.
        kwargs.pop("trust_remote_code", None)  # there is nothing to trust: no code but this package's is run
        return [
            DragonflyImageProcessor.from_pretrained(pretrained_model_name_or_path, trust_remote_code=False, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, trust_remote_code=False, **kwargs),
        ]

    @classmethod
    def from_args_and_dict(cls, args: list, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        # The inherited one reads the argument names off the code object of __init__, which any decorator hides.
        fields = {k: v for k, v in (processor_dict | kwargs).items() if k in ("chat_template", "max_length")}
        processor = cls(*args, **fields)
        return (processor, {}) if kwargs.get("return_unused_kwargs") else processor

    @property
    def layout(self) -> Layout:
        """How many tokens an image takes."""
        return self.image_processor.layout

    # Texts come first here, as in most of transformers' processors; the mixin's own order is another.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        text: str | Sequence[str],
        images: Images | Sequence[Images] = None,
        *,
        padding: bool | Literal["longest", "max_length"] = True,
        padding_side: Side = "left",
        max_length: int | None = None,
        supervise: Supervise | None = None,
        return_tensors: str = "pt",
        **_: Any,
    ) -> BatchFeature:
        """Token ids and crops of a batch of samples, each with any number of images.

        A literal `<|reserved_special_token_0|>` in a text is the place of one image; a text without any has its images
        in front. `<|begin_of_text|>` follows the images in front where the text does not bring it. Other text is left
        as it is, so a question needs its headers: see `prompts.question_text` and `apply_chat_template`.

        Args:
            text: one text or a list; one text gives a batch of one.
            images: for each text an image, a list of images, or None; for a single text also directly.
            padding: True or `longest` pads to the longest text, `max_length` to that many tokens.
            padding_side: `left` for generation, `right` for training.
            max_length: tokens at most; None takes the processor's own, the context of its language model.
            supervise: adds `labels`: `assistant` on the assistant's texts and their `<|eot_id|>`; `all` is the released
                training encoding, which closes the text with `<|end_of_text|>` and has a label after every
                `<|begin_of_text|>`. Padding has none. None, for generation, adds nothing.
            return_tensors: `pt`; there is no other.

        Returns:
            `input_ids`, `attention_mask`, `question_mask` (texts, tokens), `labels` likewise if asked for; with an
            image in the batch `pixel_values` (images, crops, 3, side, side) uint8 and `image_grids` (images, 2, 2).

        Raises:
            ValueError: images and texts or placeholders differ in number, a text is too long, an image is damaged.
        """
        if return_tensors != "pt" or padding is False:
            raise ValueError("a DragonflyProcessor makes padded torch tensors: use return_tensors='pt', padding=True.")
        texts = [text] if isinstance(text, str) else list(text)
        nested = _nest(images, len(texts), single=isinstance(text, str))
        limit = max_length or self.max_length
        encoded = [self._encode(t, len(i), supervise, limit) for t, i in zip(texts, nested, strict=True)]
        if padding == "max_length" and limit is None:
            raise ValueError("padding='max_length' needs max_length=.")
        length = limit if padding == "max_length" and limit else max(map(len, encoded))

        def rows(values: list[list[int]] | list[list[bool]], fill: int | bool) -> torch.Tensor:
            return pad_rows([to_row(v) for v in values], length=length, fill=fill, side=padding_side)

        data = {
            "input_ids": rows([e.ids for e in encoded], self.ids.end),
            "attention_mask": rows([[1] * len(e) for e in encoded], 0),
            "question_mask": rows([e.question for e in encoded], False),
        }
        if supervise is not None:
            answers = rows([e.answer for e in encoded], False)
            data["labels"] = data["input_ids"].masked_fill(~answers, IGNORE)
        data |= self.image_processor([image for group in nested for image in group])
        return BatchFeature(data)

    def _encode(self, text: str, num_images: int, supervise: Supervise | None, limit: int | None) -> TokenizedText:
        placeholders = text.count(IMAGE)
        if placeholders == 0:
            text = IMAGE * num_images + text
        elif placeholders != num_images:
            raise ValueError(
                f"{placeholders} image placeholders ({IMAGE}) but {num_images} images for the text {text!r:.60}; "
                "they must be equal."
            )
        body = text
        while body.startswith(IMAGE):
            body = body[len(IMAGE) :]
        if not body.startswith(BEGIN_OF_TEXT):
            text = text[: len(text) - len(body)] + BEGIN_OF_TEXT + body
        tokenized = expand_images(tokenize(self.tokenizer, text), self.layout, self.ids)
        if supervise == "all":
            tokenized.extend([self.ids.end])
            begin = tokenized.ids.index(self.ids.begin)
            tokenized.answer = [i > begin and token != self.ids.image for i, token in enumerate(tokenized.ids)]
        if limit is not None and len(tokenized) > limit:
            raise ValueError(
                f"the text {text!r:.60} takes {len(tokenized)} tokens, {num_images * self.layout.num_tokens} of them "
                f"for {num_images} images, more than max_length={limit}. Shorten it, or use a zoom with fewer tokens."
            )
        return tokenized


def _nest(images: Any, num_texts: int, *, single: bool) -> list[list[ImageInput]]:
    """Images as one list a text."""
    if images is None:
        return [[] for _ in range(num_texts)]
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        images = [images]
    if single and not (len(images) == 1 and isinstance(images[0], list | tuple)):
        images = [images]
    if len(images) != num_texts:
        raise ValueError(
            f"images has {len(images)} entries for {num_texts} texts. Give each an image, a list of images or None."
        )
    return [[] if i is None else list(i) if isinstance(i, list | tuple) else [i] for i in images]


def _with_tower(layout: Layout, vision: str | Path) -> Layout:
    where = f"vision={vision}"
    try:
        config = read_model_config(vision, where=where)
    except ValueError as error:
        if Path(vision, "config.json").is_file():
            raise
        raise ValueError(f"{where} is neither a folder with a config.json nor in the local cache.") from error
    return Layout.of_tower(getattr(config, "vision_config", config), layout.zoom)


def _context(folder: Path) -> int | None:
    """Tokens that the language model of a released checkpoint takes; None where its config does not say."""
    file = folder / "config.json"
    fields = read_json(file) if file.is_file() else {}
    return (fields.get("text_config") or {}).get("max_position_embeddings") or fields.get("max_position_embeddings")
