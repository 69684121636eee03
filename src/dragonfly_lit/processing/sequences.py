"""Sample to sequence: image tokens, then the turns in the words of a format; labels where an answer is to be learnt.

Several questions that share their images become branches: the images and a system turn are the trunk, each question
with its answer is a branch whose positions go on from the trunk's end. So do the two answers of a preference: what
comes before them is the trunk, the chosen one is branch 1, the rejected one branch 2.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, get_args

import torch
from transformers import PreTrainedTokenizerBase

from dragonfly_lit.processing.crops import Resize, cut
from dragonfly_lit.processing.encoding import Spoken, TokenizedText, expand_images, expand_spoken, forked, to_row
from dragonfly_lit.processing.formats import OWN, ChatFormat, Llama3Format
from dragonfly_lit.spec.kinds import kinds_of
from dragonfly_lit.spec.layout import Layout
from dragonfly_lit.spec.records import Sample, Sequence, Turn
from dragonfly_lit.spec.samples import check_preference
from dragonfly_lit.spec.tokens import IGNORE

Supervise = Literal["assistant", "all"]
TooLong = Literal["cut", "refuse"]


class TooLongError(ValueError):
    """A sample that does not fit and may not, or cannot, be cut at a turn boundary."""


@dataclass(kw_only=True)
class LengthCounts:
    """What became of the samples that were too long, since the builder was made."""

    samples_cut: int = 0
    turns_cut: int = 0
    samples_refused: int = 0


@dataclass(frozen=True, kw_only=True)
class TokenizedSample:
    """A sample's tokens, still as lists: the trunk, then its branches; no image of it was looked at.

    Attributes:
        trunk: images, what opens a text and the turns, or what all branches share of them.
        branches: a question and its answer each.
        num_images: how many of the sample's images are in it, from the first on.
        num_turns_cut: from the end, so that it fits.
    """

    trunk: TokenizedText
    branches: tuple[TokenizedText, ...] = ()
    num_images: int
    num_turns_cut: int = 0

    def __len__(self) -> int:
        return len(self.trunk) + sum(map(len, self.branches))


class SequenceBuilder:
    """Builds sequences of at most `max_tokens` tokens.

    Args:
        tokenizer: a fast tokenizer that knows the special tokens of the format.
        layout: how many tokens an image takes.
        max_tokens: length of a sequence at most, the images included.
        resize: `fast`, or `pillow` for the released pixels.
        supervise: `assistant` puts labels on the assistant's texts and the ends of these turns; `all` is the released
            training encoding: everything after `<|begin_of_text|>`, closed by an `<|end_of_text|>`, or all that a
            template of another kind writes.
        too_long: `cut` drops whole trailing exchanges (an answer and what led to it) with the images that came with
            them until the rest fits; `refuse` raises. A sample whose first exchange does not fit is refused either way.
        chat: how turns are written; None is Llama-3's way.

    Attributes:
        counts: how many samples and turns were cut, and how many samples refused.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout,
        max_tokens: int,
        resize: Resize = "fast",
        supervise: Supervise = "assistant",
        too_long: TooLong = "cut",
        chat: ChatFormat | None = None,
    ) -> None:
        for name, value, allowed in (
            ("supervise", supervise, get_args(Supervise)),
            ("too_long", too_long, get_args(TooLong)),
            ("resize", resize, get_args(Resize)),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is unknown. Use one of {', '.join(allowed)}.")
        self.tokenizer, self.layout, self.max_tokens = tokenizer, layout, max_tokens
        self.resize: Resize = resize
        self.supervise, self.too_long = supervise, too_long
        self.chat: ChatFormat = chat or Llama3Format(tokenizer)
        self.ids = self.chat.ids
        self.counts = LengthCounts()
        self._image = layout.image_ids(self.ids.image, self.ids.newline)

    def build(self, sample: Sample, tokenized: TokenizedSample | None = None) -> Sequence:
        """The sequence of a sample.

        Args:
            sample: its images decoded; with `tokenized` those that are kept are enough.
            tokenized: what `tokenize` gave for the sample, where it was called before the images were decoded.

        Raises:
            TooLongError: it does not fit and is not to be, or cannot be, cut.
            ValueError: nothing of it is supervised, its images and placeholders differ in number, its questions
                cannot share an image, or a turn holds a structural token.
        """
        try:
            if tokenized is None:
                tokenized = self.tokenize(
                    sample.turns, len(sample.images), share_image=sample.share_image, rejected=sample.rejected
                )
        except TooLongError as error:
            raise TooLongError(f"sample {sample.key}: {error}") from error
        except ValueError as error:
            raise ValueError(f"sample {sample.key}: {error}") from error
        self.counts.samples_cut += tokenized.num_turns_cut > 0
        self.counts.turns_cut += tokenized.num_turns_cut
        images = sample.images[: tokenized.num_images]
        return self._assemble(sample, tokenized, tuple(cut(image, self.layout, self.resize) for image in images))

    def num_tokens(self, turns: Seq[Turn], num_images: int, *, share_image: bool = False, rejected: str = "") -> int:
        """Length of the sequence that `build` would give, without looking at an image; it raises what `build` would."""
        return len(self._fit(turns, num_images, share_image=share_image, rejected=rejected))

    def tokenize(
        self, turns: Seq[Turn], num_images: int, *, share_image: bool = False, rejected: str = ""
    ) -> TokenizedSample:
        """The tokens of a sample, cut so that they fit, before an image of it is decoded; it raises what `build` does.

        Args:
            turns: of the conversation.
            num_images: that came with them.
            share_image: whether each question with its answer is a branch.
            rejected: of a preference: the worse answer in place of the last turn's.
        """
        try:
            return self._fit(turns, num_images, share_image=share_image, rejected=rejected)
        except TooLongError:
            self.counts.samples_refused += 1
            raise

    def _fit(self, turns: Seq[Turn], num_images: int, *, share_image: bool, rejected: str) -> TokenizedSample:
        _check_turns(turns, num_images, share_image=share_image)
        if rejected:
            self._check_preference(turns, rejected, share_image=share_image)
        zoom = self.layout.zoom
        if share_image and zoom.score == "question" and zoom.selects and sum(t.role == "user" for t in turns) > 1:
            raise ValueError(
                "several questions share an image, but zoom.score=question selects crops for one question. Set "
                "questions: one for the source (data.train.sources.NAME), or use zoom.score=pooled."
            )
        images = _images_so_far(turns, num_images)
        if share_image and self.chat.in_place:  # every question has them all
            images = [num_images] * (len(turns) + 1)
        turns = self._placed(turns, num_images, share_image=share_image)
        if rejected:
            trunk, branches, kept = *self._answers(turns, rejected, images[-1]), len(turns)
        elif share_image:
            trunk, branches, kept = self._branches(turns, images)
        else:
            (trunk, kept), branches = self._trunk(turns, images), []
        if not any(any(part.answer) for part in (trunk, *branches)):
            raise ValueError("no turn of the assistant: there is nothing to learn. Leave the sample out.")
        before = TokenizedText()
        for _ in range(self._in_front(images[kept])):
            before.extend(self._image)
        before.extend(self.chat.opening)
        before.append(trunk)
        return TokenizedSample(
            trunk=before, branches=tuple(branches), num_images=images[kept], num_turns_cut=len(turns) - kept
        )

    def _trunk(self, turns: Seq[Turn], images: Seq[int]) -> tuple[TokenizedText, int]:
        """The tokens of a conversation, and how many of its turns they are."""
        spoken = self._expanded(self.chat.spoken(turns))
        text, kept = self._labelled(spoken.text), len(turns)
        if (num_tokens := self._before(images[-1]) + len(text)) > self.max_tokens:
            return self._cut(spoken, turns, images, num_tokens)
        return text, kept

    def _cut(self, spoken: Spoken, turns: Seq[Turn], images: Seq[int], num_tokens: int) -> tuple[TokenizedText, int]:
        """As many turns, up to an answer, as fit in place of all of them, which take `num_tokens`."""
        answers = self._answers_to_cut_to(turns, images, num_tokens)
        for kept in answers:
            num_tokens = self._before(images[kept]) + spoken.ends[kept] + self._num_closing
            if num_tokens > self.max_tokens:
                continue
            text = self._labelled(self._first(spoken, turns, kept))
            num_tokens = self._before(images[kept]) + len(text)  # a template may write more for what is last
            if num_tokens <= self.max_tokens:
                return text, kept
        raise self._too_long(num_tokens, images[answers[-1]], can_cut=False)

    def _branches(self, turns: Seq[Turn], images: Seq[int]) -> tuple[TokenizedText, list[TokenizedText], int]:
        """What all questions share, each question with its answer, and how many turns these are."""
        num_system = sum(turn.role == "system" for turn in turns)
        pairs = [turns[at : at + 2] for at in range(num_system, len(turns), 2)]
        trunk, parts = self.chat.branches(turns[:num_system], pairs)
        if self.chat.in_place:
            trunk, *parts = (expand_images(part, self.layout, self.ids) for part in (trunk, *parts))
        if self.supervise == "all":
            trunk.answer = self._all_but_images(trunk)
        parts, kept = [self._labelled(part) for part in parts], len(turns)
        num_tokens = self._before(images[-1]) + len(trunk) + sum(map(len, parts))
        if num_tokens > self.max_tokens:
            sizes = list(accumulate(map(len, parts), initial=len(trunk)))
            answers = self._answers_to_cut_to(turns, images, num_tokens)
            for kept in answers:
                num_tokens = self._before(images[kept]) + sizes[(kept - num_system) // 2]
                if num_tokens <= self.max_tokens:
                    break
            else:
                raise self._too_long(num_tokens, images[answers[-1]], can_cut=False)
        return trunk, parts[: (kept - num_system) // 2], kept

    def _check_preference(self, turns: Seq[Turn], rejected: str, *, share_image: bool) -> None:
        check_preference(turns, rejected, share_image=share_image)
        if self.supervise == "all":
            raise ValueError(
                "a preference is learnt from its two answers alone, and model.supervise=all puts labels on everything. "
                "Set model.supervise=assistant."
            )

    def _answers(self, turns: Seq[Turn], rejected: str, num_images: int) -> tuple[TokenizedText, list[TokenizedText]]:
        """What comes before the two answers of a preference, and each of them, the chosen one first; never cut."""
        whole = [self._expanded(self.chat.spoken(told)) for told in (turns, (*turns[:-1], _said(turns[-1], rejected)))]
        earlier = [spoken.ends[len(turns) - 1] for spoken in whole]
        for spoken, end in zip(whole, earlier, strict=True):
            spoken.text.answer[:end] = [False] * end  # answers of the conversation so far are not what is compared
        trunk, branches = forked([spoken.text for spoken in whole])
        num_tokens = self._before(num_images) + len(trunk) + sum(map(len, branches))
        if num_tokens > self.max_tokens:
            raise TooLongError(
                f"{num_tokens} tokens ({num_images} images, two answers) are more than max_tokens={self.max_tokens}, "
                "and a preference is not cut. Raise max_tokens, or use a zoom with fewer tokens an image."
            )
        return trunk, branches

    def _before(self, num_images: int) -> int:
        """Tokens in front of the first turn."""
        return self._in_front(num_images) * len(self._image) + len(self.chat.opening)

    def _in_front(self, num_images: int) -> int:
        return 0 if self.chat.in_place else num_images

    def _expanded(self, spoken: Spoken) -> Spoken:
        return expand_spoken(spoken, self.layout, self.ids) if self.chat.in_place else spoken

    def _first(self, spoken: Spoken, turns: Seq[Turn], number: int) -> TokenizedText:
        """The first `number` turns, the last of which is an answer, with their images."""
        if self.chat.name == OWN:  # whose template may write the last turn otherwise
            return self._expanded(self.chat.spoken(turns[:number])).text
        return spoken.text.first(spoken.ends[number])

    def _placed(self, turns: Seq[Turn], num_images: int, *, share_image: bool) -> tuple[Turn, ...]:
        """The turns with their images where the format has them.

        Raises:
            ValueError: an image stands between words, and the format has all images in front.
        """
        turns = tuple(turns)
        inside = next((number for number, turn in enumerate(turns) if turn.has_images_inside), None)
        if not self.chat.in_place:
            if inside is not None:
                raise ValueError(
                    f"turn {inside}: an image stands between two texts, and with model.images=front all images come "
                    "before the text, so its sense would change. Set model.images=in_place, or pack with "
                    "--images-first."
                )
            return turns
        users = [number for number, turn in enumerate(turns) if turn.role == "user"]
        if num_images and users and not any(turn.num_images for turn in turns):
            turns = _replaced(turns, users[:1], num_images)
        if share_image and users:
            if inside is not None:
                raise ValueError(
                    f"turn {inside}: questions share an image that stands between the words of one of them. Pack them "
                    "without share_image."
                )
            shown = num_images - sum(turn.num_images for turn in turns if turn.role == "system")
            turns = _replaced(turns, users, shown)  # each question is asked about the same images
        return turns

    @property
    def _num_closing(self) -> int:
        return len(self.chat.closing) if self.supervise == "all" else 0

    def _labelled(self, text: TokenizedText) -> TokenizedText:
        if self.supervise == "all":
            text.answer = self._all_but_images(text)
            text.extend(self.chat.closing, answer=True)
        return text

    def _all_but_images(self, text: TokenizedText) -> list[bool]:
        """A feature of an image is not a word that could be learnt; the newlines of its crops are."""
        return [token != self.ids.image for token in text.ids]

    def _answers_to_cut_to(self, turns: Seq[Turn], images: Seq[int], num_tokens: int) -> list[int]:
        """Numbers of turns that end in an answer and leave some out, the most first; TooLongError if there are none."""
        answers = [kept for kept in range(len(turns) - 1, 0, -1) if turns[kept - 1].role == "assistant"]
        if self.too_long == "refuse" or not answers:
            raise self._too_long(num_tokens, images[-1], can_cut=bool(answers))
        return answers

    def _too_long(self, num_tokens: int, num_images: int, *, can_cut: bool) -> TooLongError:
        return TooLongError(
            f"{num_tokens} tokens ({num_images} images) are more than max_tokens={self.max_tokens}"
            + ("" if can_cut else ", and there is no earlier exchange to cut to")
            + ". Raise max_tokens, or use a zoom with fewer tokens an image."
        )

    def _assemble(self, sample: Sample, tokenized: TokenizedSample, crops: tuple) -> Sequence:
        whole, positions, branch_ids = TokenizedText(), [], []
        for branch, part in enumerate((tokenized.trunk, *tokenized.branches)):
            start = 0 if branch == 0 else len(tokenized.trunk)
            # A branch follows another one in the row but not in what it sees: its first token has nothing to be
            # predicted from, nor has the first of all.
            part.answer[0] = False
            whole.append(part)
            positions.extend(range(start, start + len(part)))
            branch_ids.extend([branch] * len(part))
        ids = to_row(whole.ids)
        return Sequence(
            input_ids=ids,
            labels=ids.masked_fill(~to_row(whole.answer), IGNORE),
            position_ids=to_row(positions),
            sample_ids=torch.zeros_like(ids),
            branch_ids=to_row(branch_ids),
            question_mask=to_row(whole.question),
            image_slots=(ids == self.ids.image).nonzero().squeeze(1),
            crops=crops,
            keys=(sample.key,),
            sources=(sample.source,),
            kinds=(self._kinds(sample),),
        )

    def _kinds(self, sample: Sample) -> tuple[str, ...]:
        if self.supervise == "all":  # questions, and what opens a text, are learnt as well
            return ("",)
        return kinds_of(sample.turns, is_caption=sample.is_caption, share_image=sample.share_image)


def _said(turn: Turn, text: str) -> Turn:
    return replace(turn, text=text, places=())


def _replaced(turns: tuple[Turn, ...], users: Seq[int], num_images: int) -> tuple[Turn, ...]:
    return tuple(
        replace(turn, num_images=num_images, places=()) if number in set(users) else turn
        for number, turn in enumerate(turns)
    )


def _check_turns(turns: Seq[Turn], num_images: int, *, share_image: bool) -> None:
    placeholders = sum(turn.num_images for turn in turns)
    if placeholders not in (0, num_images):
        raise ValueError(f"{placeholders} image placeholders but {num_images} images; they must be equal.")
    if not share_image:
        return
    roles = [turn.role for turn in turns]
    asked = roles[roles.count("system") :]
    if "system" in asked or asked != ["user", "assistant"] * (len(asked) // 2):
        raise ValueError(
            "share_image=true needs pairs of a user's and an assistant's turn, a system's before them, "
            f"not {', '.join(roles)}."
        )


def _images_so_far(turns: Seq[Turn], num_images: int) -> list[int]:
    """Images that came with the first n turns, by n; all of them when no turn says which are its own."""
    if not any(turn.num_images for turn in turns):
        return [num_images] * (len(turns) + 1)
    return [0, *accumulate(turn.num_images for turn in turns)]
