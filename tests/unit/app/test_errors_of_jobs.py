"""What a failed job of a sweep prints, and every other command: one line, unless the error is a bug."""

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from data_prep.__main__ import main as dragonfly_data
from dragonfly_lit.__main__ import main as dragonfly
from dragonfly_lit.app import errors
from dragonfly_lit.io.commands import SET_BY_US

MENDED = [
    ValueError("job seed=0 ended."),
    OSError("no disk"),
    HydraException("no key"),
    OmegaConfBaseException("no value"),
]


def fail(error):
    """Ends as Hydra's sweeper does when it looks at a job that has failed."""
    with errors.report_user_errors("train"):
        return JobReturn(overrides=["seed=0"], status=JobStatus.FAILED, _return_value=error).return_value


@pytest.mark.parametrize("error", MENDED, ids=lambda error: type(error).__name__)
def test_a_failed_job_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as stop:
        fail(error)
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_bug_keeps_the_line_of_its_overrides_and_its_traceback(capsys):
    with pytest.raises(KeyError):
        fail(KeyError("ours"))
    assert capsys.readouterr().err == "Error executing job with overrides: ['seed=0']\n"


def test_the_whole_error_is_shown_where_it_is_wanted(monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv(SET_BY_US, raising=False)
    with pytest.raises(ValueError, match="ended"):
        fail(MENDED[0])
    assert capsys.readouterr().err.startswith("Error executing job with overrides")


@pytest.mark.parametrize("main", [dragonfly, dragonfly_data])
def test_every_command_shows_it_where_it_is_wanted(main, monkeypatch, capsys, tmp_path):
    name = "compare" if main is dragonfly else "lint"
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert main([name, str(tmp_path / "nowhere")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere" in line
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv(SET_BY_US, raising=False)
    with pytest.raises((ValueError, OSError), match="nowhere"):
        main([name, str(tmp_path / "nowhere")])


def test_a_job_that_has_ended_returns_its_value():
    with errors.report_user_errors("train"):
        assert JobReturn(status=JobStatus.COMPLETED, _return_value=0.5).return_value == 0.5


def trip():
    """Ends as OmegaConf does when it is stopped while it composes: by an error of its own, raised as it cleans up."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise HydraException("defaults") from AttributeError("no flags")


def test_ctrl_c_is_one_even_where_a_library_trips_over_it(capsys):
    with pytest.raises(SystemExit) as stop, errors.report_user_errors("train"):
        trip()
    assert stop.value.code == 130
    assert "interrupted: no step was being trained" in capsys.readouterr().err
