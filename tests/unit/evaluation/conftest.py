"""The scoring files of lmms-eval 0.7.3, loaded by path as independent oracles.

`pip install --no-deps --target .oracles lmms-eval==0.7.3` puts them there; its full install conflicts with Hydra. In
continuous integration they must be there; elsewhere the tests that need them are skipped without them.
"""

import importlib.util
import logging
import os
import sys
import types
from pathlib import Path

import pytest

ORACLES = Path(__file__).resolve().parents[3] / ".oracles"
SCORERS = ORACLES / "lmms_eval"


def _named(name: str, **contents) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(contents)
    return module


def _load(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _distance(one: str, other: str) -> int:
    """Edit distance by its textbook recursion, for a scorer whose package of it is not a dependency here."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        last, row = row, [number]
        for place, mark in enumerate(other):
            row.append(min(last[place + 1] + 1, row[place] + 1, last[place] + (letter != mark)))
    return row[-1]


def _decorator(*args, **kwargs):
    return lambda function: function


@pytest.fixture(scope="session")
def lmms_eval():
    """A function from `tasks/chartqa/utils.py` and the like to the module of that scoring file."""
    if not SCORERS.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{SCORERS} is missing: pip install --no-deps --target .oracles lmms-eval==0.7.3")
        # Its full install conflicts with Hydra; .ci/run fetches it, and under CI its absence fails.
        pytest.skip("needs .oracles: pip install --no-deps --target .oracles lmms-eval==0.7.3")
    stand_ins = {
        "loguru": _named("loguru", logger=logging.getLogger("lmms_eval")),
        "datasets": _named("datasets", Dataset=object),
        "lmms_eval": _named("lmms_eval", __path__=[]),
        "lmms_eval.api": _named("lmms_eval.api", __path__=[]),
        "lmms_eval.api.filter": _named("lmms_eval.api.filter", Filter=object),
        "lmms_eval.api.registry": _named(
            "lmms_eval.api.registry", register_metric=_decorator, register_aggregation=_decorator
        ),
        "lmms_eval.filters": _named("lmms_eval.filters", __path__=[]),
        "lmms_eval.tasks": _named("lmms_eval.tasks", __path__=[]),
        "lmms_eval.tasks._task_utils": _named("lmms_eval.tasks._task_utils", __path__=[]),
        "lmms_eval.tasks._task_utils.file_utils": _named("file_utils", generate_submission_file=None),
        "lmms_eval.filters.transformation": _named("transformation", MapFilter=object),
        "lmms_eval.llm_judge": _named(
            "llm_judge", Request=None, ServerConfig=lambda **options: None, get_server=lambda **options: None
        ),
        "lmms_eval.tasks._task_utils.default_template_yaml": _named(
            "default_template_yaml", load_default_template_yaml=lambda path: {}
        ),
        "lmms_eval.tasks.hallusion_bench": _named("hallusion_bench", __path__=[]),
        "pandas": _named("pandas", isna=lambda cell: cell is None),
        "Levenshtein": _named("Levenshtein", distance=_distance),
        "lmms_eval.verifiers": _named("lmms_eval.verifiers", VerificationPipeline=object),
        "lmms_eval.verifiers.openai": _named("lmms_eval.verifiers.openai", OpenAIVerifier=object),
    }
    before = dict(sys.modules)
    sys.modules.update(stand_ins)
    try:
        for name in ("vqa_eval_metric", "mmmu_mcq_utils"):
            _load(f"lmms_eval.tasks._task_utils.{name}", SCORERS / f"tasks/_task_utils/{name}.py")
        _load("lmms_eval.filters.extraction", SCORERS / "filters/extraction.py")
        _load("lmms_eval.tasks.hallusion_bench.utils", SCORERS / "tasks/hallusion_bench/utils.py")
        names = {
            place: _load(f"oracle_{number}", SCORERS / place)
            for number, place in enumerate(
                (
                    "api/metrics.py",
                    "tasks/ai2d/utils.py",
                    "tasks/chartqa/utils.py",
                    "tasks/mme/utils.py",
                    "tasks/mmmu/utils.py",
                    "tasks/pope/utils.py",
                    "tasks/scienceqa/utils.py",
                    "tasks/slake/utils.py",
                    "tasks/textvqa/utils.py",
                    "tasks/vizwiz_vqa/utils.py",
                    "tasks/_task_utils/vqa_eval_metric.py",
                    "tasks/_task_utils/mcq_extract.py",
                    "tasks/blink/utils.py",
                    "tasks/cv_bench/utils.py",
                    "tasks/hallusion_bench/evaluate_hb.py",
                    "tasks/hrbench/hrbench_evals.py",
                    "tasks/mathvista/mathvista_evals.py",
                    "tasks/mmbench/mmbench_evals.py",
                    "tasks/mmstar/utils.py",
                    "tasks/realworldqa/utils.py",
                    "tasks/seedbench/utils.py",
                    "tasks/mme_realworld/utils.py",
                    "tasks/vqav2/utils.py",
                    "tasks/ocrbench/utils.py",
                    "tasks/vstar_bench/utils.py",
                )
            )
        }
    finally:
        for name in set(sys.modules) - set(before):
            if name.startswith(("lmms_eval", "loguru", "datasets", "oracle_", "pandas", "Levenshtein")):
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in stand_ins if name in before})
    return names.__getitem__


@pytest.fixture(scope="session")
def bert_score_utils():
    """`bert_score/utils.py` of BERTScore's authors alone: the package itself needs pandas and matplotlib."""
    path = ORACLES / "bert_score" / "utils.py"
    if not path.is_file():
        missing = "pip install --no-deps --target .oracles bert-score==0.3.13"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{path} is missing: {missing}")
    sys.modules["bert_score_alone"] = _named("bert_score_alone", __version__="0.3.13", __path__=[])
    return _load("bert_score_alone.utils", path)
