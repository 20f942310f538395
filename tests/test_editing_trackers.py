"""Tests of the trackers: what accelerate's trackers receive from a training."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image

from editing.training import Sampled, Saved, Stepped, Validated
from editing.training.trackers import tracker
from visdiff.errors import InputError


class Recorder(GeneralTracker):
    """A tracker that keeps what it receives in a list."""

    name = "recorder"
    requires_logging_directory = True
    received: list[Any]

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.received = [run_name, logging_dir]
        RUNS.append(self.received)

    @property
    def tracker(self) -> Any:
        return self.received

    def store_init_configuration(self, values: dict) -> None:
        self.received.append(values)

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        self.received.append((step, values))

    def finish(self) -> None:
        self.received.append("finished")


class Painter(Recorder):
    name = "painter"

    def log_images(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        self.received.append((step, {key: [i.shape for i in v] for key, v in values.items()}))


RUNS: list[list[Any]] = []
EVENTS = [
    Stepped(1, 4, 0.5, {"prior": 0.1}, 2.0, 1e-3, 0.25),
    Saved(1, Path("x")),
    Validated(2, 0.75),
]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "painter", Painter)
    RUNS.clear()


@pytest.mark.usefixtures("registered")
def test_trackers_receive_numbers_and_samples(tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    Image.new("RGB", (6, 4)).save(grid)
    folder = tmp_path / "runs"
    with tracker(["recorder", "painter", "recorder"], folder, "fox", {"lr": 1e-3, "x": (1,)}) as on:
        for event in [*EVENTS, Sampled(4, grid)]:
            on(event)
    numbers = {"loss": 0.5, "gradient": 2.0, "rate": 1e-3, "seconds": 0.25, "parts/prior": 0.1}
    common = [
        "fox",
        str(folder),
        {"lr": 1e-3, "x": "(1,)"},
        (1, numbers),
        (2, {"validation": 0.75}),
    ]
    recorder, painter = RUNS
    assert recorder == [*common, (4, {"samples": str(grid)}), "finished"]
    assert painter == [*common, (4, {"samples": [(4, 6, 3)]}), "finished"]


@pytest.mark.usefixtures("registered")
def test_runs_are_finished_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError), tracker(["recorder"], tmp_path, "fox", {}):
        raise InterruptedError
    assert RUNS[0][-1] == "finished"


def test_unknown_and_missing_trackers_are_errors(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="did you mean 'tensorboard'"),
        tracker(["tensorbord"], tmp_path, "fox", {}),
    ):
        pass
    missing = [name for name in ("comet_ml", "dvclive") if importlib.util.find_spec(name) is None]
    for name in missing:
        package = name.replace("_", "-")
        with (
            pytest.raises(InputError, match=f"pip install {package}`"),
            tracker([name], tmp_path, "fox", {}),
        ):
            pass
