"""Tests of checkpoints: N steps are N/2, a new run, and N/2, bit for bit, with every setting."""

import importlib.util
import itertools
import json
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from editing.training import Group, Losses, Plan, Skipped, Stepped, Weights, train
from editing.training.state import load, save
from visdiff.errors import InputError


def start() -> dict[str, torch.Tensor]:
    return {
        "unet.w": torch.linspace(-1, 1, 6, dtype=torch.bfloat16).reshape(2, 3),
        "unet.zero": torch.zeros(2),
        "text.w": torch.full((3,), 0.5),
        "text.late": torch.ones(2),
        "unread": torch.ones(4),
    }


def loss(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
    """Returns losses with a product in float16, which read one tensor for some samples only."""
    totals = []
    for own in generators:
        x = torch.randn(3, generator=own)
        y = weights["unet.w"] @ (x.half() * weights["text.w"].half()).float()
        total = (y + weights["unet.zero"] - x[:2]).square().sum()
        if float(torch.rand(1, generator=own)) < 0.2:
            total = total + weights["text.late"].square().sum()
        totals.append(10 * total)
    total = torch.stack(totals)
    return Losses(total, {"distance": total})


def bits(weights: Weights) -> list[bytes]:
    return [value.numpy().tobytes() for value in weights.values()]


def stop_at(at: int) -> Any:
    def on_event(event: Any) -> None:
        if isinstance(event, Stepped) and event.done == at:
            raise InterruptedError

    return on_event


def check_resumption(plan: Plan, file: Path) -> None:
    """Checks a run that is stopped after its first half, one step past the last checkpoint."""
    whole = train(start(), loss, plan)
    with pytest.raises(InterruptedError):
        train(start(), loss, plan, checkpoint=file, on_event=stop_at(plan.steps // 2 + 1))
    events: list[Any] = []
    assert bits(train(start(), loss, plan, checkpoint=file, on_event=events.append)) == bits(whole)
    assert events[0].done == plan.steps // 2
    assert [part.name for part in file.parent.iterdir()] == [file.name]


GROUPS = (Group("text", 2e-2), Group("unet", 1e-2, 0.1))
OPTIONS: dict[str, Any] = {
    "adam": {"amsgrad": True},
    "adamw": {},
    "sgd": {"momentum": 0.9, "nesterov": True},
    "prodigy": {"safeguard_warmup": True, "use_bias_correction": True, "d0": 1e-3},
}


@pytest.mark.parametrize(
    ("optimizer", "ema", "grouped", "scale"),
    list(itertools.product(OPTIONS, [None, 0.9], [False, True], ["none", "dynamic"])),
)
def test_half_resumed_is_whole(
    tmp_path: Path, optimizer: Any, ema: float | None, grouped: bool, scale: Any
) -> None:
    groups = () if not grouped else GROUPS
    if optimizer == "prodigy":
        groups = tuple(replace(group, lr=1e-2) for group in groups)
    plan = Plan(
        steps=12, lr=1e-2, batch=2, micro_batch=1, optimizer=optimizer, weight_decay=0.01,
        schedule="linear", warmup=2, clip=5.0, save_every=6, groups=groups,
        optimizer_options=OPTIONS[optimizer], ema=ema, loss_scale=scale,
    )  # fmt: skip
    check_resumption(plan, tmp_path / "state.safetensors")


@pytest.mark.parametrize("schedule", ["polynomial", "cosine-with-restarts"])
def test_half_resumed_is_whole_with_a_schedule(tmp_path: Path, schedule: Any) -> None:
    check_resumption(Plan(8, 1e-2, schedule=schedule, save_every=4), tmp_path / "state")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes (visdiff[train])"
)
@pytest.mark.parametrize("least", [1, 4096])
def test_half_resumed_is_whole_with_8_bits(tmp_path: Path, least: int) -> None:
    plan = Plan(
        8, 1e-2, optimizer="adamw-8bit", save_every=4, optimizer_options={"min_8bit_size": least}
    )
    check_resumption(plan, tmp_path / "state")


def test_skipped_steps_are_counted_across_runs(tmp_path: Path) -> None:
    plan = Plan(steps=8, lr=1e-2, loss_scale="dynamic", save_every=2)
    whole: list[Any] = []
    train(start(), loss, plan, on_event=whole.append)
    file = tmp_path / "state.safetensors"
    with pytest.raises(InterruptedError):
        train(start(), loss, plan, checkpoint=file, on_event=stop_at(3))
    resumed: list[Any] = []
    train(start(), loss, plan, checkpoint=file, on_event=resumed.append)
    skipped = [event for event in whole if isinstance(event, Skipped)]
    assert len([event for event in skipped if event.done > 2]) > 0
    assert [event for event in skipped if event.done > 2] == [
        event for event in resumed if isinstance(event, Skipped)
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"groups": (Group("text", 3e-2),)},
        {"ema": 0.8},
        {"loss_scale": "dynamic"},
        {"optimizer_options": {"eps": 1e-6}},
        {"optimizer": "sgd"},
        {"schedule": "linear"},
    ],
)
def test_a_checkpoint_with_other_settings_is_an_error(tmp_path: Path, other: Any) -> None:
    file = tmp_path / "state.safetensors"
    plan = Plan(steps=2, lr=1e-2, ema=0.9, groups=(Group("text", 2e-2),))
    train(start(), loss, plan, checkpoint=file)
    with pytest.raises(InputError, match="of another"):
        train(start(), loss, replace(plan, **other), checkpoint=file)
    # Those that do not affect the result may change.
    free = replace(plan, steps=3, micro_batch=2, save_every=1)
    train(start(), loss, free, checkpoint=file)


def test_a_checkpoint_of_an_earlier_version_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    old = {"visdiff_training": json.dumps({"version": 1, "done": 1, "same": {}})}
    save_file({"weight.w": torch.ones(1), "exp_avg.w": torch.ones(1)}, file, old)
    with pytest.raises(InputError, match="of version 1, of another release"):
        train(start(), loss, Plan(steps=2, lr=1e-2), checkpoint=file)


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_checkpoint_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "state.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        train(start(), loss, Plan(steps=2, lr=1e-2), checkpoint=file)
    assert file.read_bytes() == content


def test_a_failed_write_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    plan = Plan(steps=4, lr=1e-2, save_every=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(event: Any) -> None:
        if isinstance(event, Stepped) and event.done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with pytest.raises(InputError, match="Expected a path to write the checkpoint to, got"):
            train(start(), loss, plan, checkpoint=file, on_event=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [part.name for part in tmp_path.iterdir()] == [file.name]
    assert bits(train(start(), loss, plan, checkpoint=file)) == bits(train(start(), loss, plan))


def test_any_state_is_stored_exactly(tmp_path: Path) -> None:
    shared = torch.arange(3)
    state = {
        "numbers": [0.1, 1e-300, float("inf"), 2**70, True, None, "é"],
        "nested": {"a.b": {"c": (1, (2.5, []))}, "step": 3},
        "tensors": [torch.tensor(0.1), torch.arange(4, dtype=torch.uint8), torch.zeros(0)],
        "shared": (shared, {"same": shared}),
        "half": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).half().T,
    }
    file = tmp_path / "state.safetensors"
    weights = {"w": torch.ones(2, requires_grad=True)}
    save(file, weights, state, {"x": [1]}, 5)
    found, again, done = load(file, weights, {"x": [1]})
    assert done == 5
    assert torch.equal(found["w"], torch.ones(2))
    assert again["numbers"] == state["numbers"]
    assert again["nested"] == state["nested"]
    for one, two in zip(again["tensors"], state["tensors"], strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    assert again["shared"][0] is again["shared"][1]["same"]
    assert torch.equal(again["half"], state["half"])
    with safe_open(file, "pt") as stored:
        assert json.loads(stored.metadata()["visdiff_training"])["version"] == 2
    with pytest.raises(TypeError, match=r"state\.x is of the type object"):
        save(file, weights, {"x": object()}, {}, 5)
