"""Learning curves and the law of scaling, read from results whose answer is known; where a figure comes from."""

import json
import math
import random
import shlex

import pytest

from dragonfly_lit.evaluation.study.cells import Cell, Study, estimate
from dragonfly_lit.evaluation.study.learning import TRAINING, VALIDATION, curves_of, learning_seen, read_curve, verdict
from dragonfly_lit.evaluation.study.origin import origins
from dragonfly_lit.evaluation.study.scaling import Point, bootstrap, fit, held_out, points_of, scaling_seen

pytest.importorskip("scipy")

CONFIG = {
    "data": {"batch": {"mode": "padded", "size": None}},
    "stage": {"name": "2", "accumulate": 2},
    "model": {"recipe": {"2": {"batch_size": 8}}},
    "trainer": {"devices": 2, "num_nodes": 1},
}
PIXELS = (32, 64, 96, 128, 160, 192, 256)


def law(pixels, half=170.0, exponent=1.7, chance=0.25):
    return chance + (1 - chance) / (1 + (pixels / half) ** -exponent)


def write_log(folder, losses, *, every=10, validated=None):
    folder.mkdir(parents=True)
    lines = ["loss,samples_per_s,step,tflops_per_device,val_loss"]
    lines += [f"{loss},4.0,{every * (i + 1)},0.5," for i, loss in enumerate(losses)]
    lines += [f",,{every * (i + 1)},,{loss}" for i, loss in enumerate(validated or ())]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def test_training_flops_are_those_of_all_samples_of_all_processes(tmp_path):
    write_log(tmp_path / "job", [2.0, 1.0], validated=[1.5])
    curve = read_curve(tmp_path / "job/metrics.csv", CONFIG)
    # 0.5 TFLOPs a second of each of two processes, 4 samples a second of both: 0.25 a sample; 8 x 2 x 2 samples a step.
    assert curve.tflops[TRAINING] == pytest.approx([80.0, 160.0])
    assert curve.tflops[VALIDATION] == pytest.approx([80.0])
    packed = {**CONFIG, "data": {"batch": {"mode": "packed", "size": None}}}
    assert read_curve(tmp_path / "job/metrics.csv", packed).tflops[TRAINING] is None
    assert read_curve(tmp_path / "gone/metrics.csv", CONFIG) is None


def test_steps_that_a_resumed_run_did_again_count_once(tmp_path):
    write_log(tmp_path / "job", [3.0, 2.0])
    (tmp_path / "job/metrics.csv").rename(tmp_path / "job/metrics.1.csv")
    head = "loss,samples_per_s,step,tflops_per_device,val_loss\n"
    (tmp_path / "job/metrics.2.csv").write_text(f"{head}1.7,4.0,20,0.5,\n")
    (tmp_path / "job/metrics.csv").write_text(f"{head}1.5,4.0,20,0.5,\n1.0,4.0,30,0.5,\n")
    curve = read_curve(tmp_path / "job/metrics.csv", CONFIG)
    assert (curve.steps[TRAINING], curve.losses[TRAINING]) == ([10, 20, 30], [3.0, 1.5, 1.0])
    assert curve.tflops[TRAINING] == pytest.approx([80.0, 160.0, 240.0])


@pytest.mark.parametrize(("fall", "learning"), [(0.002, True), (0.0, False), (-0.002, False)])
def test_a_loss_that_falls_by_more_than_its_noise_is_still_learning(tmp_path, fall, learning):
    draw = random.Random(0)
    for seed in range(3):  # seeds differ by more than what is learnt
        losses = [seed + 1 - fall * 10 * i + draw.gauss(0, 0.01) for i in range(24)]
        write_log(tmp_path / str(seed), losses)
    folders = {str(seed): tmp_path / str(seed) for seed in range(3)}
    cell = Cell(name="a", title="a", results={seed: {"config": CONFIG} for seed in folders}, folders=folders)
    found = verdict(curves_of(cell))
    assert found.loss == TRAINING
    assert found.learning is learning
    assert found.low <= -fall <= found.high
    assert learning_seen(cell).startswith(
        f"a: {'still learning' if learning else 'flat'}. Over the last quarter of 240"
    )


def test_validation_is_asked_first_where_there_is_enough_of_it(tmp_path):
    write_log(tmp_path / "0", [1.0 - 0.01 * i for i in range(24)], validated=[1.0 + 0.01 * i for i in range(24)])
    cell = Cell(name="a", title="a", results={"0": {"config": CONFIG}}, folders={"0": tmp_path / "0"})
    found = verdict(curves_of(cell))
    assert (found.loss, found.learning) == (VALIDATION, False)
    assert found.slope == pytest.approx(0.001)
    write_log(tmp_path / "1", [1.0, 0.9])
    short = Cell(name="b", title="b", results={"0": {}}, folders={"0": tmp_path / "1"})
    assert "too few points" in learning_seen(short)
    assert learning_seen(Cell(name="c", title="c")) is None


def points(noise, seed=0, num=3):
    draw = random.Random(seed)
    return [
        Point(title=f"{p} px", pixels=p, accuracy=estimate([law(p) + draw.gauss(0, noise) for _ in range(num)]))
        for p in PIXELS
    ]


def test_the_fit_recovers_a_planted_law():
    found = fit(PIXELS, [law(p) for p in PIXELS], chance=0.25)
    assert found.half == pytest.approx(170.0, rel=1e-3)
    assert found.steepness == pytest.approx(1.7 * math.log(2), rel=1e-3)
    assert found.at(512) == pytest.approx(law(512), abs=1e-4)
    with pytest.raises(ValueError, match="three cells of different pixels"):
        fit([32, 64], [0.3, 0.4])


@pytest.mark.parametrize("accuracy", [0.0, 0.25, 1.0])
def test_accuracies_that_do_not_depend_on_pixels_have_no_law(accuracy):
    pixels = (32, 64, 128, 256)
    with pytest.raises(ValueError, match="no law of pixels is near"):
        fit(pixels, [accuracy] * 4, chance=0.25)


def test_the_intervals_of_a_noisy_law_hold_what_was_planted():
    noisy = points(0.015)
    bounds = bootstrap(noisy, chance=0.25)
    assert bounds["half"][0] < 170.0 < bounds["half"][1]
    assert bounds["steepness"][0] < 1.7 * math.log(2) < bounds["steepness"][1]


def test_held_out_cells_lie_in_their_prediction_intervals_as_often_as_promised():
    checked = [one.holds for seed in range(40) for one in held_out(points(0.015, seed), chance=0.25)]
    assert 0.9 <= sum(checked) / len(checked) <= 0.99
    odd = points(0.001)
    odd[-1] = Point(title="odd", pixels=256, accuracy=estimate([0.4, 0.41]))
    assert not held_out(odd, chance=0.25)[-1].holds
    assert "outside the interval" in scaling_seen(odd, chance=0.25)[1]


def test_only_cells_that_differ_in_crops_alone_are_under_one_law(tmp_path):
    def cell(name, *, steps=240, size=None, seed="0", **zoom):
        base = {"low": True, "medium": True, "high": True, "medium_crops": 4, "high_crops": 16, "top_k": None}
        config = {
            "zoom": base | zoom,
            "vision": {"path": "builtin", "image_size": size},
            "stage": {"steps": steps},
            "seed": int(seed),
            "data": {"seed": int(seed)},
            "about": {"title": name},
        }
        groups = {"split": {"02%": {"num_questions": 5, "score": 0.5}}}
        entry = {"headline": "accuracy", "scores": {"accuracy": 0.5}, "groups": groups}
        return Cell(name=name, title=name, results={seed: {"benchmarks": {"probes": entry}, "config": config}})

    cells = (
        cell("low", medium=False, high=False),
        cell("medium", high=False, seed="1"),
        cell("24 px", size=24),
        cell("36", high_crops=36, pool=4),
        cell("selects", top_k=2),
        cell("longer", steps=960),
    )
    found = points_of(Study(folder=tmp_path, cells=cells, benchmark="probes"), 0.09)
    assert {point.title: point.pixels for point in found} == {"low": 32, "medium": 64, "24 px": 96, "36": 192}


def test_a_figure_names_the_command_and_the_commit_of_its_jobs(tmp_path):
    def job(name, seed, commit):
        folder = tmp_path / f"{name}{seed}"
        (folder / "out").mkdir(parents=True)
        command = shlex.join(["train.py", f"experiment/cell={name}", f"seed={seed}", f'name="x/{name}"', "resume=auto"])
        (folder / "out/results.json").write_text(json.dumps({"made": {"command": command, "commit": commit}}))
        return folder

    result = {"benchmarks": {"probes": {"folder": "out"}}}
    cells = [
        Cell(name=n, results=dict.fromkeys("01", result), folders={s: job(n, s, "aaa") for s in "01"}) for n in "ab"
    ]
    cells.append(Cell(name="c", results={"5": result, "6": result}, folders={"5": job("c", 5, "bbb")}))
    assert origins(cells, "probes") == [
        "python train.py -m experiment/cell=a,b seed=0,1 at commit aaa",
        "python train.py experiment/cell=c seed=5 at commit bbb",
        "1 job whose results do not say what made them",
    ]
