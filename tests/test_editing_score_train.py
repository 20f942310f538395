"""Tests of the training loop on a problem with a known solution."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from editing.training import (
    Losses,
    Plan,
    Saved,
    Started,
    Stepped,
    Weights,
    generator,
    mean_losses,
    train,
)
from visdiff.errors import InputError

GOAL = torch.tensor([1.0, -2.0, 0.5])


def noisy(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
    """Returns the squared distance to a noisy goal; its mean is smallest at the goal."""
    goals = torch.stack([GOAL + 0.1 * torch.randn(3, generator=g) for g in generators])
    total = (weights["w"] * weights["s"] - goals).square().sum(1)
    return Losses(total, {"distance": total, "size": total * 0 + weights["w"].norm()})


def start() -> dict[str, torch.Tensor]:
    return {"w": torch.zeros(3, dtype=torch.bfloat16), "s": torch.ones(1)}


def bits(weights: Weights) -> list[bytes]:
    return [value.numpy().tobytes() for value in weights.values()]


def stop_at(at: int) -> Any:
    def on_event(event: Any) -> None:
        if isinstance(event, Stepped) and event.done == at:
            raise InterruptedError

    return on_event


PLAN = Plan(steps=12, lr=0.05, batch=3, micro_batch=3, save_every=5)


def test_training_converges_and_does_not_change_its_input() -> None:
    initial = start()
    plan = Plan(steps=300, lr=0.05, batch=4, micro_batch=4, schedule="cosine")
    found = train(initial, noisy, plan)
    torch.testing.assert_close(found["w"] * found["s"], GOAL, rtol=0, atol=0.05)
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in found.values())
    assert torch.equal(initial["w"], torch.zeros(3, dtype=torch.bfloat16))
    assert torch.equal(initial["s"], torch.ones(1))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("stop", [5, 7, 10])
def test_a_resumed_training_is_bitwise_identical(tmp_path: Path, stop: int, optimizer: Any) -> None:
    plan = Plan(
        steps=12, lr=0.05, batch=3, schedule="cosine", warmup=2, clip=0.5, save_every=5,
        optimizer=optimizer, weight_decay=0.01,
    )  # fmt: skip
    whole = train(start(), noisy, plan)
    file = tmp_path / "deep" / "state.safetensors"
    with pytest.raises(InterruptedError):
        train(start(), noisy, plan, checkpoint=file, on_event=stop_at(stop))
    events: list[Any] = []
    again = train(start(), noisy, plan, checkpoint=file, on_event=events.append)
    done = (stop - 1) // 5 * 5
    assert events[0] == Started(done, 12)
    assert [e.done for e in events if isinstance(e, Stepped)] == list(range(done + 1, 13))
    assert bits(again) == bits(whole)
    assert [f.name for f in file.parent.iterdir()] == ["state.safetensors"]
    # A completed training has no steps left.
    assert bits(train(start(), noisy, plan, checkpoint=file, on_event=stop_at(0))) == bits(whole)


def test_inside_autocast_each_step_uses_the_updated_weights() -> None:
    goal = torch.eye(3)

    def product(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        # Autocast computes a matrix product with cached casts of the weights.
        off = (torch.eye(3) @ weights["w"]).float() - goal
        return Losses(off.square().sum().expand(len(generators)), {})

    with torch.autocast("cpu", torch.bfloat16):
        found = train({"w": torch.zeros(3, 3)}, product, Plan(steps=200, lr=0.05))
    torch.testing.assert_close(found["w"], goal, rtol=0, atol=0.05)


def test_micro_batches_add_up() -> None:
    whole = train(start(), noisy, Plan(steps=6, lr=0.05, batch=7, micro_batch=7))
    for size in (1, 2, 3, 100):
        parts = train(start(), noisy, Plan(steps=6, lr=0.05, batch=7, micro_batch=size))
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_samples_are_determined_by_seed_step_and_index() -> None:
    def first(*key: int) -> float:
        return float(torch.rand(1, generator=generator(*key)))

    keys = [(0, 1), (0, 1, 0), (0, 1, 0, 0), (0, 0, 1), (1, 0, 0), (0, 0, 0), (1, 1), (0, 2)]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(3, 4, 5) == first(3, 4, 5)
    one = train(start(), noisy, PLAN)
    assert bits(one) == bits(train(start(), noisy, PLAN))
    assert bits(one) != bits(train(start(), noisy, Plan(12, 0.05, 3, 3, seed=1)))


def test_events_report_the_correct_numbers(tmp_path: Path) -> None:
    events: list[Any] = []
    file = tmp_path / "state.safetensors"
    train(start(), noisy, PLAN, on_event=events.append, checkpoint=file)
    steps = [e for e in events if isinstance(e, Stepped)]
    assert events[0] == Started(0, 12)
    assert [e.done for e in events if isinstance(e, Saved)] == [5, 10, 12]
    first = noisy({"w": torch.zeros(3), "s": torch.ones(1)}, [generator(0, 0, i) for i in range(3)])
    assert steps[0].loss == pytest.approx(float(first.total.mean()), rel=1e-6)
    assert steps[0].parts["distance"] == pytest.approx(steps[0].loss, rel=1e-6)
    assert steps[0].parts["size"] == 0
    assert steps[0].rate == 0.05
    # At w = 0: the gradient of ‖w − goal‖² is −2 · mean goal, and 0 for s.
    goals = torch.stack(
        [GOAL + 0.1 * torch.randn(3, generator=generator(0, 0, i)) for i in range(3)]
    )
    assert steps[0].gradient == pytest.approx(float(2 * goals.mean(0).norm()), rel=1e-5)
    assert all(e.seconds > 0 for e in steps)
    with safe_open(file, "pt") as state:
        described = json.loads(state.metadata()["visdiff_training"])
    assert described["done"] == 12


def test_rates_follow_the_schedule() -> None:
    plan = Plan(steps=10, lr=1.0, schedule="cosine", warmup=4)
    rates = [plan.rate(step) for step in range(10)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([(1 + math.cos(math.pi * k / 6)) / 2 for k in range(1, 6)])
    assert {Plan(steps=5, lr=0.3).rate(step) for step in range(5)} == {0.3}


def test_clipping_bounds_the_step() -> None:
    events: list[Any] = []
    free = train(start(), noisy, Plan(steps=1, lr=1e-3, batch=3))
    # Adam's first step depends on the direction of the gradient only, not on its norm.
    train(start(), noisy, Plan(steps=1, lr=1e-3, batch=3, clip=1e-9), on_event=events.append)
    assert events[1].gradient > 1
    assert free["w"].abs().max() == pytest.approx(1e-3, rel=1e-3)
    clipped = train(start(), noisy, Plan(steps=1, lr=1e-3, batch=3, clip=1e-9))
    # Adam's ε, 1e-8, exceeds the clipped gradient, which shortens the step.
    assert clipped["w"].abs().max() < 0.2 * free["w"].abs().max()


def test_losses_are_measured_on_held_out_samples() -> None:
    samples: list[float] = []

    def recording(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        samples.extend(float(torch.rand(1, generator=g)) for g in generators)
        total = weights["w"].square().sum().expand(len(generators))
        return Losses(total, {"part": total})

    train({"w": torch.ones(3)}, recording, Plan(steps=20, lr=0.1, batch=2, micro_batch=2))
    trained = set(samples)
    samples.clear()
    measured = mean_losses({"w": torch.full((3,), 2.0)}, recording, 0, 5, 2)
    assert measured == {"part": 12.0}
    assert len(samples) == 5
    assert not trained & set(samples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.04}, "of another"),
        ({"batch": 2}, "of another"),
        ({"seed": 1}, "of another"),
        ({"steps": 11}, "at most 11 steps"),
    ],
)
def test_the_checkpoint_of_another_run_is_an_error(
    tmp_path: Path, change: Any, message: str
) -> None:
    file = tmp_path / "state.safetensors"
    train(start(), noisy, PLAN, checkpoint=file)
    own: dict[str, Any] = {"steps": 12, "lr": 0.05, "batch": 3, "micro_batch": 3}
    with pytest.raises(InputError, match=message):
        train(start(), noisy, Plan(**own | change), checkpoint=file)
    with pytest.raises(InputError, match="of another"):
        train(start(), noisy, PLAN, checkpoint=file, about="another base")
    with pytest.raises(InputError, match="of another"):
        train({"v": torch.ones(3)}, noisy, PLAN, checkpoint=file)


def test_a_non_finite_loss_is_an_error_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"

    def breaking(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        found = noisy(weights, generators)
        bad = float("nan") if float(weights["w"].detach().abs().max()) > 0.4 else 1.0
        return Losses(found.total * bad, found.parts)

    with pytest.raises(InputError, match=r"finite loss, got nan at step \d+"):
        train(start(), breaking, PLAN, checkpoint=file)
    with safe_open(file, "pt") as state:
        assert all(torch.isfinite(state.get_tensor(name)).all() for name in state.keys())  # noqa: SIM118


def test_invalid_plans_and_empty_weights_are_errors() -> None:
    with pytest.raises(InputError, match="at least one tensor"):
        train({}, noisy, PLAN)
    with pytest.raises(InputError, match="batch of 1 or more"):
        Plan(steps=1, lr=1e-3, batch=0)
    with pytest.raises(InputError, match="above zero"):
        Plan(steps=1, lr=0.0)
