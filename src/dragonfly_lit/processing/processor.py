"""Text and images to the model's inputs in transformers' manner, through the functions that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import (
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from dragonfly_lit.io.foreign import foreign, read_json, read_model_config
from dragonfly_lit.io.remote_code import SavedWithModule, auto_map
from dragonfly_lit.processing.arguments import OF_CALL, Images, check_others, is_text, nest_images
from dragonfly_lit.processing.batches import Side, pad_rows
from dragonfly_lit.processing.chat import Conversation, is_batch, normalise
from dragonfly_lit.processing.crops import Resize
from dragonfly_lit.processing.encoding import TokenizedText, expand_images, to_row
from dragonfly_lit.processing.formats import FRONT, IN_PLACE, LLAMA3, OWN, ChatFormat, Llama3Format, template_of
from dragonfly_lit.processing.image_inputs import flat
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.own_format import OwnFormat
from dragonfly_lit.processing.prompts import words
from dragonfly_lit.processing.sequences import Supervise
from dragonfly_lit.spec.layout import Layout
from dragonfly_lit.spec.released import LAYOUTS, released_zoom
from dragonfly_lit.spec.samples import Turn, turn_of_parts
from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, END_HEADER, END_OF_TURN, IGNORE, IMAGE, START_HEADER

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


class DragonflyProcessor(SavedWithModule, ProcessorMixin):
    """Tokenizer and image processor of one Dragonfly.

    Args:
        image_processor: cuts the images, and says how many tokens one takes.
        tokenizer: a fast tokenizer that knows the special tokens of the format.
        chat_template: Jinja; None is CHAT_TEMPLATE, or the tokenizer's with `chat="own"`.
        max_length: tokens that the language model takes at most; None does not check.
        chat: `llama3`, the released format, or `own`: conversations are what `chat_template` writes.
        images: where images stand: `front`, before all text, or `in_place`, where they do in their messages.

    Attributes:
        format: how a conversation becomes tokens.

    Raises:
        ValueError: an argument is missing, or which tokens are an answer cannot be told exactly from the template.
    """

    def __init__(
        self,
        image_processor: DragonflyImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        max_length: int | None = None,
        chat: str = LLAMA3,
        images: str = FRONT,
        **kwargs: Any,
    ) -> None:
        if image_processor is None or tokenizer is None:
            raise ValueError("a DragonflyProcessor needs image_processor= and tokenizer=; one of them is None.")
        if chat not in (LLAMA3, OWN):
            raise ValueError(f"chat={chat!r} is unknown. Use {LLAMA3} or {OWN}.")
        if images not in (FRONT, IN_PLACE):
            raise ValueError(f"images={images!r} is unknown. Use {FRONT} or {IN_PLACE}.")
        self.max_length, self.chat, self.images = max_length, chat, images
        in_place = images == IN_PLACE
        if chat == OWN:
            chat_template = chat_template or template_of(tokenizer)
            self.format: ChatFormat = OwnFormat(tokenizer, chat_template, where=f"chat={OWN}", in_place=in_place)
        else:
            self.format = Llama3Format(tokenizer, in_place=in_place)
        self.ids = self.format.ids
        tokenizer.padding_side = "left"  # where pipelines and trainers of others pad, an answer follows its prompt
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
        fields = {
            k: v for k, v in (processor_dict | kwargs).items() if k in ("chat_template", "max_length", "chat", "images")
        }
        processor = cls(*args, **fields)
        return (processor, {}) if kwargs.get("return_unused_kwargs") else processor

    def to_dict(self) -> dict[str, Any]:
        """Transformers' own, and where the class is found."""
        return super().to_dict() | {"auto_map": auto_map(AutoProcessor="DragonflyProcessor")}

    @property
    def layout(self) -> Layout:
        """How many tokens an image takes."""
        return self.image_processor.layout

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "question_mask", *self.image_processor.model_input_names]

    # Texts come first here, as in most of transformers' processors; the mixin's own order is another.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        text: str | Sequence[str] | None = None,
        images: Images | Sequence[Images] = None,
        *,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = True,
        padding_side: Side = "left",
        pad_to_multiple_of: int | None = None,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        supervise: Supervise | None = None,
        return_tensors: Literal["pt", "np"] | None = "pt",
        fetch: bool = False,
        **others: Any,
    ) -> BatchFeature:
        """Token ids and crops of a batch of samples, each with any number of images.

        A literal `<|reserved_special_token_0|>` in a text is the place of one image; a text without any has its images
        in front. In Llama-3's format `<|begin_of_text|>` follows the images in front where the text does not bring it.
        Other text is left as it is, so a question needs its headers: see `question_text` and `apply_chat_template`.

        Args:
            text: one text or a list; one text gives a batch of one.
            images: for each text an image, a list of images, or None; for a single text also directly. A flat list goes
                to the texts by their placeholders, or one to each. Every image in any form of ImageInput.
            padding: True or `longest` pads to the longest text, `max_length` to that many tokens; False needs
                `return_tensors=None`.
            padding_side: `left` for generation, `right` for training.
            pad_to_multiple_of: tokens of which a padded row has a multiple.
            max_length: tokens at most; None takes the processor's own, the context of its language model.
            add_special_tokens: whether `<|begin_of_text|>` is added where a text lacks it; not to a text that goes on.
            supervise: adds `labels`: `assistant` on the assistant's texts and the ends of these turns; `all` is the
                released training encoding, which closes the text with `<|end_of_text|>` and has a label after every
                `<|begin_of_text|>`, or everywhere in a template of another kind. Padding has none. None, for
                generation, adds nothing.
            return_tensors: `pt` or `np`; None gives lists of the tokens and tensors of the images.
            fetch: whether http URLs of images are fetched; otherwise nothing comes over the network.
            others: what transformers gives to every processor, where it says what is done anyway.

        Returns:
            `input_ids`, `attention_mask`, `question_mask` (texts, tokens), `labels` likewise if asked for; with an
            image in the batch `pixel_values` (images, crops, 3, side, side) uint8 and `image_grids` (images, 2, 2).

        Raises:
            ValueError: images and texts or placeholders differ in number, a text is too long, an image is damaged, or
                an argument is unknown.
        """
        check_others(others, return_tensors, padding)
        swapped = not is_text(text) and is_text(images)  # transformers' own order
        given: Any = images if swapped else text
        if not is_text(given):
            raise ValueError("a DragonflyProcessor needs text=, one or a list; a question about an image alone too.")
        texts = [given] if isinstance(given, str) else list(given)
        nested = nest_images(text if swapped else images, texts, single=isinstance(given, str))
        limit = max_length or self.max_length
        begins = self.chat == LLAMA3 and add_special_tokens
        encoded = [self._encode(t, len(i), supervise, limit, begins) for t, i in zip(texts, nested, strict=True)]
        if padding == "max_length" and limit is None:
            raise ValueError("padding='max_length' needs max_length=.")
        length = limit if padding == "max_length" and limit else max(map(len, encoded))
        if pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        ragged = padding in (False, "do_not_pad")

        def rows(values: list[list[int]] | list[list[bool]], fill: int | bool) -> Any:
            if ragged:
                return values
            padded = pad_rows([to_row(v) for v in values], length=length, fill=fill, side=padding_side)
            return padded if return_tensors == "pt" else padded.numpy() if return_tensors == "np" else padded.tolist()

        data = {
            "input_ids": rows([e.ids for e in encoded], self.ids.padding),
            "attention_mask": rows([[1] * len(e) for e in encoded], 0),
            "question_mask": rows([e.question for e in encoded], False),
        }
        if supervise is not None:
            labels = [[i if a else IGNORE for i, a in zip(e.ids, e.answer, strict=True)] for e in encoded]
            data["labels"] = rows(labels, IGNORE)
        if others.get("return_assistant_tokens_mask"):
            data["assistant_masks"] = rows([[int(a) for a in e.answer] for e in encoded], 0)
        data |= self.image_processor([i for group in nested for i in group], return_tensors=return_tensors, fetch=fetch)
        return BatchFeature(data)

    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        conversation: Conversation | Sequence[Conversation],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: Literal["pt", "np", "auto"] | None = "pt",
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Transformers' own: conversations as text, or as the model's inputs with `tokenize=True, return_dict=True`.

        Args:
            conversation: messages of a text or of parts (`text`, `image`, and OpenAI's `image_url`), or several lists
                of them. An image is a file, a URL, base64, an array: any form of ImageInput.
            chat_template: Jinja in place of the processor's own; it runs in a sandbox.
            tokenize: whether to give token ids.
            return_dict: whether to give all inputs, not `input_ids` alone.
            return_tensors: as in a call.
            return_assistant_tokens_mask: adds `assistant_masks`: 1 on the assistant's texts and their `<|eot_id|>`.
            processor_kwargs: arguments of a call.
            kwargs: `add_generation_prompt`, `continue_final_message`, variables of the template; also arguments of a
                call.

        Raises:
            ValueError: the conversation is none, or the template does what its sandbox forbids, or fails.
        """
        batched = is_batch(conversation)
        chats: Sequence[Any] = conversation if batched else [conversation]
        pairs = [normalise(chat) for chat in chats]
        of_call = {name: kwargs.pop(name) for name in ("images", *OF_CALL) if name in kwargs} | (processor_kwargs or {})
        texts = [self._written(messages, chat_template, kwargs) for messages, _ in pairs]
        if not tokenize:
            return texts if batched else texts[0]
        given = of_call.pop("images", None)
        images = [found for _, found in pairs] if given is None else given
        # One text beside a list of its own images, as a call has it.
        inputs = self(
            text=list(texts),
            images=images if batched or given is None else [flat(images)],
            return_tensors="pt" if return_tensors == "auto" else return_tensors,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            **of_call,
        )
        return inputs if return_dict else inputs["input_ids"]

    def question_text(self, question: str | Turn, *, system: str | None = None) -> str:
        """The prompt that asks one question and leaves the answer to the model.

        Args:
            question: its words, or a turn of the user that says where images stand among them.
            system: what is said before it.

        Raises:
            ValueError: a text holds a token that is structure, or the template cannot write it.
        """
        turns = [Turn(role="system", text=system)] if system else []
        asked = Turn(role="user", text=question) if isinstance(question, str) else question
        return self.format.text([*turns, asked])

    def _written(self, messages: list[dict[str, Any]], chat_template: str | None, variables: dict[str, Any]) -> str:
        """A conversation in the processor's format, or in a template that is given instead."""
        given: Any = messages
        own = self.format if isinstance(self.format, OwnFormat) else None
        if own or self.format.in_place:  # a template of texts, in which an image is a token
            given = [{**message, "content": self._words(message["content"])} for message in messages]
        if own:
            return self._front(messages) + own.write(given, chat_template, **variables)[0]
        with foreign("the chat template"):
            return super().apply_chat_template(given, chat_template=chat_template, tokenize=False, **variables)

    def _front(self, messages: list[dict[str, Any]]) -> str:
        """The places of the images that stand before all that the template writes."""
        lists = [] if self.format.in_place else [m["content"] for m in messages if not isinstance(m["content"], str)]
        return IMAGE * sum(part["type"] == "image" for parts in lists for part in parts)

    def _encode(
        self, text: str, num_images: int, supervise: Supervise | None, limit: int | None, begins: bool
    ) -> TokenizedText:
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
        if begins and not body.startswith(BEGIN_OF_TEXT):
            text = text[: len(text) - len(body)] + BEGIN_OF_TEXT + body
        tokenized = expand_images(self.format.read(text), self.layout, self.ids)
        if not len(tokenized):
            raise ValueError("a text is empty and has no image, so there is nothing to read. Give it words.")
        if supervise == "all":
            self._label_all(tokenized)
        if limit is not None and len(tokenized) > limit:
            raise ValueError(
                f"the text {text!r:.60} takes {len(tokenized)} tokens, {num_images * self.layout.num_tokens} of them "
                f"for {num_images} images, more than max_length={limit}. Shorten it, or use a zoom with fewer tokens."
            )
        return tokenized

    def _words(self, content: str | list[dict[str, Any]]) -> str:
        """The text of a message as training has it, with its images where the format wants them."""
        if isinstance(content, str):
            return content.strip()
        turn = turn_of_parts("user", [part["text"] if part["type"] == "text" else None for part in content])
        return words(turn, self.format.in_place)

    def _label_all(self, tokenized: TokenizedText) -> None:
        """Labels everywhere behind what opens a text, and closes it."""
        tokenized.extend(self.format.closing)
        ids = tokenized.ids
        if self.chat == LLAMA3:
            num_front = ids.index(self.format.opening[0]) + 1 if self.format.opening[0] in ids else 0
        elif self.format.in_place:
            num_front = 0
        else:  # the images in front, as training has them
            image = (self.ids.image, self.ids.newline)
            num_front = next((place for place, token in enumerate(ids) if token not in image), len(ids))
        tokenized.answer = [i >= num_front and token != self.ids.image for i, token in enumerate(ids)]


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
