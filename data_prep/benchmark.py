"""`python -m data_prep benchmark NAME`: a benchmark's origin, licence, and the layout that evaluate.py reads."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a benchmark is published."""

    title: str
    original: str
    hub: tuple[str, ...] = ()
    """Repositories of the Hugging Face hub, each with the configuration that is read."""
    licence: str
    note: str = ""


UNSTATED = "not stated by the release"
ORIGINS = {
    "ai2d": Origin(
        title="AI2 Diagrams (Kembhavi et al., 2016)", original="the AI2D archive of the Allen Institute for AI",
        hub=("lmms-lab/ai2d", "Efficient-Large-Model/ai2d-no-mask"), licence="CC BY-SA 4.0 (annotations)",
        note="The first hub copy masks the labels in the diagrams, the second does not: scores are not comparable.",
    ),
    "scienceqa": Origin(
        title="ScienceQA (Lu et al., 2022)", original="problems.json, pid_splits.json and images of its release",
        hub=("lmms-lab/ScienceQA, ScienceQA-FULL", "derek-thomas/ScienceQA"), licence="CC BY-NC-SA 4.0",
    ),
    "chartqa": Origin(
        title="ChartQA (Masry et al., 2022)", original="the `ChartQA Dataset` folder of vis-nlp/ChartQA",
        hub=("lmms-lab/ChartQA", "HuggingFaceM4/ChartQA"), licence="GPL-3.0",
    ),
    "textvqa": Origin(
        title="TextVQA (Singh et al., 2019)", original="TextVQA_0.5.1_val.json and the images of textvqa.org",
        hub=("lmms-lab/textvqa", "facebook/textvqa"), licence="CC BY 4.0",
    ),
    "vizwiz": Origin(
        title="VizWiz-VQA (Gurari et al., 2018)", original="Annotations and val of vizwiz.org",
        hub=("lmms-lab/VizWiz-VQA",), licence="CC BY 4.0",
        note="The answers of the test split are hidden; scores of it come from the challenge's server.",
    ),
    "gqa": Origin(
        title="GQA (Hudson and Manning, 2019)", original="testdev_balanced_questions.json and images of its page",
        hub=("lmms-lab/GQA, testdev_balanced_instructions and testdev_balanced_images",), licence="CC BY 4.0",
    ),
    "pope": Origin(
        title="POPE (Li et al., 2023)", original="output/coco of RUCAIBox/POPE, and COCO val2014",
        hub=("lmms-lab/POPE, default or Full",), licence="MIT (questions); the images are COCO's",
        note="The random split had 2,910 questions at first, which LLaVA-1.5 used, and has 3,000 now.",
    ),
    "mme": Origin(
        title="MME (Fu et al., 2023)", original="MME_Benchmark_release_version.zip, on request from its authors",
        hub=("lmms-lab/MME",), licence="research only, as its authors ask",
    ),
    "mmmu": Origin(
        title="MMMU (Yue et al., 2024)", original="the same files as on the hub",
        hub=("MMMU/MMMU, thirty subjects", "lmms-lab/MMMU"), licence="Apache-2.0",
        note="The answers of the test split are hidden.",
    ),
    "mm_vet": Origin(
        title="MM-Vet (Yu et al., 2023)", original="mm-vet.zip of yuweihao/MM-Vet", hub=("lmms-lab/MMVet",),
        licence="CC BY-NC 4.0", note="A judge scores it; evaluate.py writes the requests and reads the scores.",
    ),
    "vqa_rad": Origin(
        title="VQA-RAD (Lau et al., 2018)", original="the OSF archive: a JSON list and a folder of images",
        hub=("flaviagiammarino/vqa-rad",), licence="CC0 1.0",
        note="The hub copy has no answer types: there, closed means that the answer is yes or no.",
    ),
    "slake": Origin(
        title="SLAKE (Liu et al., 2021)", original="test.json and imgs.zip, which is to be unpacked",
        hub=("BoKelvin/SLAKE (the original)", "mdwiratathya/SLAKE-vqa-english"), licence="CC BY 4.0",
    ),
    "path_vqa": Origin(
        title="PathVQA (He et al., 2020)", original="pickles, which are not read because they can run code, and images",
        hub=("flaviagiammarino/path-vqa",), licence="MIT",
    ),
    "iu_xray": Origin(
        title="IU X-Ray (Demner-Fushman et al., 2016)", original="R2Gen's annotation.json and images, or bioCaption's",
        licence="CC BY-NC-ND 4.0 (OpenI)",
    ),
    "peir_gross": Origin(
        title="PEIR Gross (Jing et al., 2018)", original="bioCaption's crawl of the PEIR library", licence=UNSTATED,
    ),
    "roco": Origin(
        title="ROCO (Pelka et al., 2018)", original="razorx89/roco-dataset",
        hub=("eltorio/ROCO-radiology", "mdwiratathya/ROCO-radiology"), licence="of each article in PubMed Central",
    ),
    "mimic_cxr": Origin(
        title="MIMIC-CXR (Johnson et al., 2019)", original="PhysioNet, for credentialed users; R2Gen's annotation.json",
        licence="PhysioNet credentialed health data licence",
        note="Not redistributable: neither the images nor the reports may leave your machine, a hosted judge included.",
    ),
    "easy_vqa": Origin(
        title="easy-VQA (Zhou, 2020)", original="the easy-vqa package: pip install 'dragonfly_lit[demo]'",
        licence="MIT",
    ),
    "probes": Origin(
        title="Probes: small details on photographs", original="python -m data_prep probes",
        licence="BSD-3-Clause (scikit-learn's digits), public domain and CC0 (scikit-image's photographs)",
    ),
}  # fmt: skip


def describe(name: str) -> str:
    """What a user must know to lay the data down: origin, licence, folder, layouts, counts.

    Raises:
        ValueError: there is no benchmark of that name.
    """
    from dragonfly_lit.evaluation.benchmarks.registry import TASKS

    if name not in ORIGINS:
        raise ValueError(f"there is no benchmark {name!r}; use one of {', '.join(ORIGINS)}.")
    origin, task = ORIGINS[name], TASKS[name]
    counts = "; ".join(
        f"{split} {' or '.join(f'{number:,}' for number in numbers)}" for split, numbers in task.counts.items()
    )
    lines = [
        ("benchmark", f"{name}: {origin.title}"),
        ("original", origin.original),
        ("hub", "; ".join(origin.hub)),
        ("licence", f"{origin.licence}; what the source itself says counts"),
        ("folder", f"data_root/{name}"),
        ("layout", task.expects),
        ("questions", counts),
        ("note", origin.note),
        ("run", f"python evaluate.py benchmark={name} data_root=FOLDER checkpoint=PATH"),
    ]
    return "\n".join(f"{key:<11}{text}" for key, text in lines if text)


def main(argv: list[str]) -> int:
    """Exit status; prints one benchmark, or the list of them."""
    parser = argparse.ArgumentParser(prog="python -m data_prep benchmark", description=__doc__)
    parser.add_argument("name", nargs="?", help="a benchmark; without one, all are listed")
    name = parser.parse_args(argv).name
    if name is None:
        print("\n".join(f"{key:<12}{origin.title}" for key, origin in ORIGINS.items()))
        return 0
    print(describe(name))
    return 0
