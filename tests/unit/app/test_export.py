"""Export: a run's weights in folders that others can load."""

import pytest
import torch

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.export import main
from dragonfly_lit.app.factories import build_components, model_factory
from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.app.runs import held_run, open_run
from dragonfly_lit.models.backbones import builtin_folder
from dragonfly_lit.training.checkpoint.format import CheckpointInfo
from dragonfly_lit.training.checkpoint.locate import network_tensors, step_folder
from dragonfly_lit.training.checkpoint.writer import CheckpointWriter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose weights are those of no other model."""
    config = compose(["model=tiny", "zoom.high_crops=24", "zoom.top_k=3", "zoom.regions=raster"])  # as released
    root = tmp_path_factory.mktemp("runs")
    with held_run(root, "trained") as held:
        folder = open_run(root, "trained", config, resume=False, held=held)
    model = model_factory(config, build_components(config))()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    info = CheckpointInfo(stage="1", model="tiny", step=1, steps=1)
    CheckpointWriter().save(step_folder(folder, 1), network_tensors(model), {}, info, False)
    return folder, {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_exported_folder_is_the_trained_model_and_its_processor(run, tmp_path):
    folder, weights = run
    main([str(folder), str(tmp_path / "model")])
    model, processor = load_for_inference(tmp_path / "model")
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert processor.tokenizer.get_vocab() == load_for_inference(folder)[1].tokenizer.get_vocab()


def test_the_released_layout_comes_back_as_the_same_weights(run, tmp_path):
    folder, weights = run
    main([str(folder), str(tmp_path / "model"), "--layout", "released"])
    model, _ = load_for_inference(
        tmp_path / "model", dtype=torch.float32, version="v1", vision=str(builtin_folder("vision"))
    )
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())


def test_weights_are_written_in_the_type_that_is_asked_for(run, tmp_path):
    main([str(run[0]), str(tmp_path / "model"), "--dtype", "bfloat16"])
    model, _ = load_for_inference(tmp_path / "model")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.language.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_folder_with_files_is_not_written_into(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        main([str(run[0]), str(tmp_path)])
