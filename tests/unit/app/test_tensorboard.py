"""What TensorBoard shows beside a run's hyperparameters: its losses, no number that nobody measured."""

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from dragonfly_lit.app.loggers import HEADLINE, log_config
from dragonfly_lit.app.overrides import CONF


def test_the_losses_stand_beside_the_hyperparameters(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    node = yaml.safe_load((CONF / "logger/tensorboard.yaml").read_text())["tensorboard"]
    assert node.pop("_target_").endswith(TensorBoardLogger.__name__)
    logger = TensorBoardLogger(**node | {"save_dir": str(tmp_path)})
    log_config([logger], {"seed": 3, "stage": {"name": "1"}})
    for step, loss in enumerate((0.5, 0.25)):
        logger.log_metrics(dict.fromkeys(HEADLINE, loss), step)
    logger.finalize("success")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(HEADLINE)
    assert [event.value for event in events.Scalars("val_loss")] == [0.5, 0.25]
    written = events.summary_metadata
    assert b"stage/name" in written["_hparams_/session_start_info"].plugin_data.content
    assert all(name.encode() in written["_hparams_/experiment"].plugin_data.content for name in HEADLINE)
