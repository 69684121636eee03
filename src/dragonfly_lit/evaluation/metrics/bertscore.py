"""BERTScore by a model that lies on disk: the formula of the authors' package, whose numbers it gives.

torchmetrics' own differs: it never matches a word with the marks at the ends of a text, as the authors' does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

NAMES = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
CONFIG = "config.json"


class BertScore:
    """Precision, recall and F1 of a caption, each the best over its references; no idf weights, not rescaled.

    Args:
        folder: of a model and its tokenizer, as transformers saves them.
        layer: whose outputs are compared, from 1 on; the last one unless given.
        device: where the model runs.

    Raises:
        ValueError: the folder holds no such model, or the model has no such layer.
    """

    def __init__(self, folder: str | Path, layer: int | None = None, device: str = "cpu") -> None:
        check(folder)
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            model = AutoModel.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, weights_only=True
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            said = str(error).strip().split("\n")[0]
            raise ValueError(f"bertscore.model={folder}: transformers cannot load it: {said}") from error
        num = model.config.num_hidden_layers
        if layer is not None and not 1 <= layer <= num:
            raise ValueError(f"bertscore.layer={layer}: {folder} has the layers 1 to {num}.")
        if (marks := len(self.tokenizer("")["input_ids"])) != 2:
            raise ValueError(
                f"bertscore.model={folder}: its tokenizer puts {marks} marks around a text; BERTScore leaves out two, "
                "one at each end. Give a model such as BERT or RoBERTa."
            )
        self.model = model.eval().float().to(device)
        self.layer = num if layer is None else layer
        self.rule = f"BERTScore by layer {self.layer} of {num} of {Path(folder).name}"
        self.prefix = " " if model.config.model_type == "roberta" else ""  # its authors begin every text with a space
        # RoBERTa counts positions from 2 on.
        places = getattr(model.config, "max_position_embeddings", 512) - 2 * ("roberta" in model.config.model_type)
        self.longest = min(self.tokenizer.model_max_length, places)

    def score(self, prediction: str, references: Sequence[str]) -> dict[str, float]:
        """The scores by name; 0 of an empty caption, and beside an empty reference."""
        said = self._vectors(prediction)
        found = [_scores(said, self._vectors(reference)) for reference in references]
        return {name: max(scores) for name, scores in zip(NAMES, zip(*found, strict=True), strict=True)}

    @lru_cache(maxsize=64)  # noqa: B019 - one object a process; a reference is read by every draw of an answer
    @torch.inference_mode()
    def _vectors(self, text: str) -> Float[Tensor, "tokens width"]:
        """A vector of length 1 a token, the marks at both ends included."""
        ids = self.tokenizer(self.prefix + text.strip(), truncation=True, max_length=self.longest, return_tensors="pt")
        inputs = {name: ids[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        vectors = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer][0]
        return vectors / vectors.norm(dim=-1, keepdim=True)


@lru_cache(maxsize=1)
def bertscore(folder: str, layer: int | None, device: str) -> BertScore:
    """The model, loaded once a process."""
    return BertScore(folder, layer, device)


def check(folder: str | Path) -> None:
    """A ValueError when the folder is not there, or is none of a model; nothing is downloaded."""
    if not (Path(folder) / CONFIG).is_file():
        raise ValueError(
            f"bertscore.model={folder}: there is no {CONFIG}. Give a folder with a model and its tokenizer as "
            "transformers saves them (such as a copy of roberta-large); nothing is downloaded."
        )


def _scores(said: Float[Tensor, "tokens width"], meant: Float[Tensor, "others width"]) -> tuple[float, float, float]:
    """Each token with its nearest one of the other text; the marks at the ends are matched with, and do not count."""
    if min(len(said), len(meant)) <= 2:
        return 0.0, 0.0, 0.0
    near = said @ meant.T
    precision, recall = near.amax(1)[1:-1].mean(), near.amax(0)[1:-1].mean()
    f1 = 2 * precision * recall / (precision + recall)
    return float(precision), float(recall), float(f1.nan_to_num())
