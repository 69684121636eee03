"""The data of a run as Lightning takes them: loaders, and a position that lands in the checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningDataModule

from dragonfly_lit.data.dealing import FEW, MANY, check_saved, check_streams, choose_streams, fit_workers
from dragonfly_lit.data.fingerprint import fingerprint
from dragonfly_lit.data.loader import Streams, TrainLoader
from dragonfly_lit.data.mix import Mix
from dragonfly_lit.data.packing import BatchShape, Cost
from dragonfly_lit.data.parts import without_missing_parts
from dragonfly_lit.data.plan import Means, means, micro_batches_per_rank, packing_note, samples_in_row
from dragonfly_lit.data.position import MarkConsumed, OnMismatch, Position
from dragonfly_lit.data.quarantine import Quarantine
from dragonfly_lit.data.validation import ValidationBatches, ValidationLoader
from dragonfly_lit.processing.batches import Weighting
from dragonfly_lit.processing.sequences import SequenceBuilder

log = logging.getLogger(__name__)


class DragonflyDataModule(LightningDataModule):
    """Training and validation data from shards.

    Args:
        train: mix to train on: `sources` (each `path`, `weight`, `prompts`, `on_error`, or a mix of its own) and
            `temperature`.
        val: mix to validate on, `batch_size` beside it; None validates on nothing.
        builder: turns samples into sequences; its `max_tokens` must fit the batch's.
        pad_id: token id of padding.
        path: of one's own shards; a single key that `train` refers to as `${data.path}`, and named when it is missing.
        prepare: makes the data where they are missing; called once a node, before anything is opened.
        batch: fields of `BatchShape`; None of a field is its default.
        batch_size: what `size: null` of `batch` means; the recipe's.
        cost: fields of `Cost`, which `balance: flops` of `batch` counts with; the model's.
        epoch: one of `steps` (micro-batches a rank), `samples` (of all ranks), `passes` (over all sources).
        num_workers: processes that read, a rank; 0 reads in the training process.
        seed: of order, mix and prompts.
        num_streams: canonical streams; a multiple of ranks x workers. Another number is another order. None takes the
            checkpoint's, and for a fresh run one that fits data and ranks; as many workers read as can share it out.
        block: neighbouring samples that are dealt out together.
        window: samples of a stream that are shuffled together.
        weighting: of labels: `token`, `sample` or `sqrt`.
        max_pixels: of an image; None is the decoder's own limit.
        max_member_mb: of a file in a shard, in MiB; a sample with a larger one is bad.
        max_skip_rate: share of a source's samples that `on_error: skip` may skip.
        max_skip_run: samples of a source that it may skip in a row.
        quarantine: file for skipped samples; None only logs them.
        on_mismatch: `raise` refuses a checkpoint of other data, `restart` starts the data again.
        cache_dir: folder for copies of remote shards; None is one in the system's temporary folder.
        cache_gb: how large it may grow.
        pin_memory: whether batches are put into page-locked memory where there is a GPU.
    """

    def __init__(
        self,
        *,
        train: Mapping[str, Any],
        builder: SequenceBuilder,
        pad_id: int,
        val: Mapping[str, Any] | None = None,
        path: str | None = None,
        prepare: Callable[[], Any] | None = None,
        batch: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        cost: Mapping[str, float | int] | None = None,
        epoch: Mapping[str, Any] | None = None,
        num_workers: int = 2,
        seed: int = 0,
        num_streams: int | None = None,
        block: int = 32,
        window: int = 4096,
        weighting: Weighting = "token",
        max_pixels: int | None = None,
        max_member_mb: float = 256.0,
        max_skip_rate: float = 0.01,
        max_skip_run: int = 10,
        quarantine: str | Path | None = None,
        on_mismatch: OnMismatch = "raise",
        cache_dir: str | None = None,
        cache_gb: float = 50.0,
        pin_memory: bool = True,
    ):
        super().__init__()
        self.shape = BatchShape.of(
            batch or {}, size=batch_size, max_tokens=builder.max_tokens, cost=Cost(**cost) if cost else None
        )
        if builder.max_tokens > self.shape.max_tokens and self.shape.mode == "packed":
            raise ValueError(
                f"model.max_tokens={builder.max_tokens} lets a sample be longer than data.batch.max_tokens="
                f"{self.shape.max_tokens} lets a pack. Set data.batch.max_tokens to at least {builder.max_tokens}."
            )
        num_crops = builder.layout.zoom.num_crops
        if self.shape.max_crops is not None and self.shape.max_crops < num_crops:
            raise ValueError(
                f"data.batch.max_crops={self.shape.max_crops} is less than the {num_crops} crops of one image, so that "
                f"no image would be read. Set it to {num_crops} or more, or to null."
            )
        if not 0 < max_member_mb < float("inf"):
            raise ValueError(f"data.max_member_mb={max_member_mb} must be above 0, and is in MiB.")
        for name, value in (("num_streams", num_streams), ("block", block), ("window", window)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value} must be at least 1.")
        self.builder, self.seed = builder, seed
        self.preferences: bool | None = None
        """Whether samples must have a chosen and a rejected answer, or may not; None for either. Set before `setup`."""
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.on_mismatch: OnMismatch = on_mismatch
        self._prepare, self._batch_size = prepare, batch_size
        self._train, self._val = dict(train), dict(val) if val else None
        self._val_batches: ValidationBatches | None = None
        self._epoch = {key: value for key, value in (epoch or {"passes": 1}).items() if value is not None}
        self._num_streams, self._saved_streams = num_streams, None
        self._shuffling = {"block": block, "window": window}
        self._collating: dict[str, Any] = {"pad_id": pad_id, "weighting": weighting}
        self._quarantine = Quarantine(
            path=Path(quarantine) if quarantine else None, max_rate=max_skip_rate, max_run=max_skip_run, held=True
        )
        self._opening: dict[str, Any] = {
            "seed": seed,
            "max_pixels": max_pixels,
            "cache_dir": cache_dir,
            "cache_bytes": int(cache_gb * 10**9),
            "max_member_bytes": int(max_member_mb * 2**20),
        }

    @cached_property
    def mix(self) -> Mix:
        """The open sources of training."""
        return self._open(self._train, "data.train")

    @cached_property
    def val_mix(self) -> Mix | None:
        """The open sources of validation."""
        mix = without_missing_parts({key: value for key, value in (self._val or {}).items() if key != "batch_size"})
        if not mix.get("sources"):
            return None
        for key in weights_in(mix, "data.val"):
            log.warning("%s has no effect: validation reads every sample of every source once.", key)
        return self._open(mix, "data.val")

    @cached_property
    def means(self) -> Means:
        """Tokens and images of a sample of training, from probed lengths."""
        return means(self.mix, self.builder)

    @cached_property
    def samples_per_micro_batch(self) -> float:
        """`data.batch.size`, or for packed rows and what is bound in crops an estimate from probed samples."""
        if self.shape.mode != "packed" and self.shape.max_crops is None:  # nothing need be probed
            return float(self.shape.size)
        return samples_in_row(self.shape, self.builder, self.means)

    @cached_property
    def position(self) -> Position:
        """Where training stands."""
        return Position(self.fingerprint)

    @property
    def _order(self) -> dict[str, int]:
        num_streams = self._num_streams or self._saved_streams or choose_streams(len(self.mix), self._ranks)
        return {"seed": self.seed, "num_streams": num_streams, **self._shuffling}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the order of samples and packs; the weights of the sources may change on purpose."""
        return fingerprint(self.mix, self.shape, self.builder, self._order)

    @property
    def reads(self) -> dict[str, dict[str, Any]]:
        """What this process has of every source, for a comparison of ranks: number of samples, digest of the shards."""
        mixes = {"data.train": self.mix} | ({"data.val": self.val_mix} if self.val_mix is not None else {})
        return {
            f"{where}.sources.{source.name}": {"samples": len(source), "shards": source.reader.digest}
            for where, mix in mixes.items()
            for source in mix.sources
        }

    def prepare_data(self) -> None:
        """Make the data where they are missing. Lightning calls it in one process of each node; the others wait."""
        if self._prepare is not None:
            self._prepare()

    def setup(self, stage: str | None = None) -> None:
        """Check the counts before anything is read; opened sources are kept."""
        if self._num_streams is not None:
            check_streams(self._num_streams, self._ranks, self.num_workers)
        self.position.ranks, self.position.fingerprint = self._ranks, self.fingerprint
        trainer = self.trainer
        self.position.stays = trainer is not None and trainer.overfit_batches > 0  # type: ignore[attr-defined]
        if trainer is not None and not any(isinstance(callback, MarkConsumed) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            trainer.callbacks.insert(0, MarkConsumed())  # type: ignore[attr-defined]
        told = self.shape.mode == "packed" and stage == "fit" and trainer is not None and trainer.is_global_zero
        if told and self._batch_size is not None:
            log.warning(packing_note(self.shape, self.builder, self._batch_size, self.means))
        if trainer is not None and self.val_mix is None:
            trainer.limit_val_batches = 0  # Lightning warns of an empty list of loaders

    def train_dataloader(self) -> TrainLoader:
        """This rank's micro-batches of one epoch, from the position on."""
        num_workers = self._deal()
        self._quarantine.release()
        streams = Streams(
            mix=self.mix,
            shape=self.shape,
            builder=self.builder,
            quarantine=self._quarantine,
            order=self._order,
            collating=self._collating,
            rank=self._rank,
            ranks=self._ranks,
            length=self.micro_batches_per_epoch,
        )
        return TrainLoader(streams, self.position, num_workers=num_workers, pin_memory=self.pin_memory)

    @property
    def val_batch_size(self) -> int:
        """Samples of a micro-batch of validation; fewer where `data.batch.max_crops` holds no more."""
        return (self._val or {}).get("batch_size") or self.shape.size

    def val_dataloader(self) -> ValidationLoader | list:
        """Every validation sample once over all ranks; no loader without `val`."""
        if self.val_mix is None:
            return []
        self._quarantine.release()
        limit = self.trainer.limit_val_batches if self.trainer is not None else None
        at_most = self._ranks * limit if isinstance(limit, int) and limit else None  # a share is a float
        self._val_batches = ValidationBatches(
            mix=self.val_mix,
            size=self.val_batch_size,
            max_crops=self.shape.max_crops,
            builder=self.builder,
            quarantine=self._quarantine,
            collating=self._collating,
            at_most=at_most,
        )
        return ValidationLoader(
            self._val_batches,
            rank=self._rank,
            ranks=self._ranks,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def val_samples(self, num_batches: int) -> int:
        """Samples of a validation of so many micro-batches over all ranks; 0 before the loader is made."""
        return self._val_batches.num_samples(num_batches) if self._val_batches is not None else 0

    @cached_property
    def micro_batches_per_epoch(self) -> int:
        """Length of a rank's loader."""
        accumulate = getattr(self.trainer, "accumulate_grad_batches", 1)
        if (steps := self._epoch.get("steps")) and steps % accumulate and self._rank == 0:
            log.warning(
                "data.epoch.steps=%d ends an epoch amid an optimizer step, which then has %d of stage.accumulate=%d "
                "micro-batches. Use a multiple of %d.",
                *(steps, steps % accumulate, accumulate, accumulate),
            )
        return micro_batches_per_rank(
            self._epoch,
            len(self.mix),
            lambda: self.samples_per_micro_batch,
            ranks=self._ranks,
            accumulate=accumulate,
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """For each source how many samples were read, skipped, too long and cut, as far as this rank knows."""
        return self.position.counts([source.name for source in self.mix.sources])

    def state_dict(self) -> dict[str, Any]:
        """The position, gathered over ranks: every rank must call this together, as Lightning does."""
        return self.position.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, under any ranks and workers that share its streams; other data are refused."""
        saved = state_dict["fingerprint"]["order"].get("num_streams")
        if self._num_streams is None and isinstance(saved, int) and saved > 0:
            if self.on_mismatch == "raise":
                check_saved(saved, self._ranks)
            if saved % self._ranks == 0:
                self._saved_streams = saved
            self.position.fingerprint = self.fingerprint
        self.position.load_state_dict(state_dict, self.on_mismatch)

    def _deal(self) -> int:
        """Streams to ranks and workers; the workers of a rank that read training data."""
        self.position.ranks, self.position.fingerprint = self._ranks, self.fingerprint
        num_streams = self._order["num_streams"]
        if self._num_streams is not None:
            check_streams(num_streams, self._ranks, self.num_workers)
            return self.num_workers
        fitting = fit_workers(num_streams, self._ranks, self.num_workers)
        if fitting < self.num_workers and self._rank == 0:
            log.warning(
                "data.num_workers=%d: %d of them read, as many as share out %d streams on %d ranks.",
                *(self.num_workers, fitting, num_streams, self._ranks),
            )
        if self._saved_streams is None and num_streams not in (FEW, MANY) and self._rank == 0:
            log.warning(
                "%d ranks do not divide %d or %d streams, so the data have %d: another order than on other numbers of "
                "ranks. A resume keeps it.",
                *(self._ranks, FEW, MANY, num_streams),
            )
        return fitting

    def _open(self, mix: Mapping[str, Any], where: str) -> Mix:
        opening = {**self._opening, "preferences": self.preferences}
        return Mix(mix, where=where, report=self._quarantine.write, **opening)

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0


def weights_in(mix: Mapping[str, Any], where: str) -> Iterator[str]:
    """The keys of a mix, with their values, that weigh its sources against one another."""
    for key in ("weight", "temperature"):
        if mix.get(key) is not None:
            yield f"{where}.{key}={mix[key]}"
    for name, node in (mix.get("sources") or {}).items():
        yield from weights_in(node, f"{where}.sources.{name}")
