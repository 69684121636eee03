"""HallusionBench: yes-no questions about figures, and about the same figures once something in them was changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics import hallusion
from dragonfly_lit.evaluation.prompts import SHORT, Template

COLUMNS = (
    "category", "subcategory", "visual_input", "set_id", "figure_id", "question_id", "question", "gt_answer",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HallusionBench(Benchmark):
    """`split=image` has the questions with a figure, `non_image` those without, which ask what is known anyway."""

    name = "hallusion_bench"
    title = "HallusionBench (Guan et al., 2023)"
    original = "HallusionBench.json and the images of tianyi-lab/HallusionBench"
    hub = ("lmms-lab/HallusionBench",)
    licence = "not verified"
    note = "The authors ask GPT-4 whether an answer is right; here a yes or a no is read."
    verified = (
        "fields of the original in its own HallusionBench.json, columns and counts of the hub's copy against its card, "
        "groups of figures and questions against lmms-eval 0.7.3's task and the authors' utils.py, the rule without a "
        "judge against VLMEvalKit's yorn.py"
    )
    expects = (
        "HallusionBench.json (category, subcategory, visual_input, set_id, figure_id, question_id, question, "
        "gt_answer, filename) and hallusion_bench/, or data/image-*.parquet and data/non_image-*.parquet (the same "
        "with image)"
    )
    splits = ("image", "non_image")
    counts: ClassVar = {"image": (951,), "non_image": (178,)}
    metric_type = hallusion.HallusionBench
    parser = "VLMEvalKit: yes or no, if one of them and not the other is a word of the output"
    prompts: ClassVar = {
        "llava": Template(text=f"{{question}}\n{SHORT}"),
        "lmms_eval": Template(text="{question}"),
        "released": Template(text="{question}"),
    }

    split: str = "image"
    max_new_tokens: int = 128

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/HallusionBench, else the original release."""
        files = parquet_files(folder, self.split)
        with_figure = self.split == "image"
        if files:
            for row in self.parquet_rows(files, (*COLUMNS, "image")):
                yield self._question(row, [image_of(row)] if with_figure else [])
            return
        for row in self.read_json(folder, "HallusionBench.json"):
            if with_figure == (str(row["visual_input"]) != "0"):
                name = (
                    row.get("filename")
                    or f"{row['category']}/{row['subcategory']}/{row['set_id']}_{row['figure_id']}.png"
                )
                yield self._question(row, [image_in(folder, name, "", "hallusion_bench")] if with_figure else [])

    def _question(self, row: Mapping[str, Any], images: list[Any]) -> Question:
        part = f"{row['category']}_{row['subcategory']}_{row['set_id']}"
        figure, question = f"{part}_{row['figure_id']}", f"{part}_{row['question_id']}"
        return self.question(
            f"{figure}_{row['question_id']}",
            row["question"],
            images=images,
            references=["yes" if str(row["gt_answer"]) == "1" else "no"],
            split=row["category"],
            category=row["subcategory"],
            meta={"figure": figure if images else None, "question": question},
        )
