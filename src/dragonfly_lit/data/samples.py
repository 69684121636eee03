"""A record that was read -> a sample: its question chosen, its images decoded; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dragonfly_lit.data.order import choose
from dragonfly_lit.processing.images import MAX_PIXELS, decode
from dragonfly_lit.spec.samples import Record, Sample, Turn, check_preference
from dragonfly_lit.spec.shard import CAPTION_PROMPT


def check_record(record: Record) -> None:
    """ValueError for what no training can use, whatever its tokenizer: the same for shards, readers and `lint`."""
    if not isinstance(record, Record):  # of a reader of the user's own
        raise ValueError(f"the reader gives a {type(record).__name__}. Give a dragonfly_lit.spec.records.Record.")
    for turn in record.turns:
        if not isinstance(turn.text, str):
            raise ValueError(f"record {record.key}: a turn's text is {turn.text!r}. Give a str.")
    for image in record.images:
        if isinstance(image, str):
            raise ValueError(f"record {record.key}: an image is the text {image!r}. Give the bytes of its file.")
    placeholders = sum(turn.num_images for turn in record.turns)
    if placeholders != len(record.images):
        raise ValueError(
            f"record {record.key}: its turns have {placeholders} images (num_images), but it brings "
            f"{len(record.images)}; they must be equal."
        )
    if not any(turn.role == "assistant" and turn.text.strip() for turn in record.turns):
        raise ValueError("no turn of the assistant has a text: there is nothing to learn from. Leave the sample out.")
    if record.rejected:
        check_preference(record.turns, record.rejected, share_image=record.share_image)


def ask(record: Record, prompts: Sequence[str], draw: tuple[int | str, ...]) -> tuple[Turn, ...]:
    """The record's turns with a prompt in place of the only, or of an empty first, question.

    Args:
        record: the sample as it lies in the shard.
        prompts: texts to choose from; without any the record stays as it is.
        draw: what the choice depends on, such as (seed, source, key, epoch).

    Raises:
        ValueError: the first question is empty and there is no prompt to fill it.
    """
    users = [place for place, turn in enumerate(record.turns) if turn.role == "user"]
    if not users:
        return record.turns
    first = record.turns[users[0]]
    if not prompts:
        if record.is_caption:
            prompts = (CAPTION_PROMPT,)
        elif not first.text.strip():
            raise ValueError("the question is empty. Give the source a prompt set (prompts: caption).")
        else:
            return record.turns
    if first.text.strip() and len(users) > 1:
        return record.turns
    text = prompts[choose(len(prompts), "prompt", *draw)]
    return tuple(replace(t, text=text, places=()) if n == users[0] else t for n, t in enumerate(record.turns))


def one_question(record: Record, draw: tuple[int | str, ...]) -> Record:
    """The record with one of the questions that share its images, no longer shared; other records stay as they are.

    Args:
        record: the sample as it lies in the shard.
        draw: what the choice depends on, such as (seed, source, key, epoch).
    """
    if not record.share_image:
        return record
    system = [turn for turn in record.turns if turn.role == "system"]
    asked = record.turns[len(system) :]
    start = 2 * choose(len(asked) // 2, "question", *draw)
    shown = len(record.images) - sum(turn.num_images for turn in system)
    user = asked[start]
    if user.num_images != shown:
        user = replace(user, num_images=shown, places=())
    return replace(record, turns=(*system, user, *asked[start + 1 : start + 2]), share_image=False)


def to_sample(
    record: Record,
    turns: tuple[Turn, ...],
    *,
    source: str,
    max_pixels: int | None = None,
    num_images: int | None = None,
) -> Sample:
    """The sample with its images decoded to RGB.

    Args:
        record: with its images encoded.
        turns: as they are asked.
        source: name of the source.
        max_pixels: of an image; None is the decoder's own limit.
        num_images: how many of its images to decode, from the first on; None decodes all.

    Raises:
        ValueError: an image is broken or has too many pixels.
    """
    images = tuple(decode(data, max_pixels=max_pixels or MAX_PIXELS) for data in record.images[:num_images])
    return Sample(
        key=record.key,
        source=source,
        turns=turns,
        images=images,
        share_image=record.share_image,
        is_caption=record.is_caption,
        rejected=record.rejected,
    )
