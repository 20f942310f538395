"""Tests of what the training loop offers: groups, optimizers, schedules, averages, observers."""

import importlib.util
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from editing.training import (
    Estimate,
    Group,
    Losses,
    Observer,
    Plan,
    Skipped,
    Stepped,
    Validated,
    Weights,
    estimate,
    mean_losses,
    train,
)
from editing.training.optimizers import state_bytes
from editing.training.run import Run
from editing.training.schedules import rate_at
from visdiff.errors import InputError


def start() -> dict[str, torch.Tensor]:
    return {
        "unet.w": torch.linspace(-1, 1, 6).reshape(2, 3),
        "unet.b": torch.ones(2),
        "text.w": torch.full((3,), 0.5),
        "unread": torch.ones(4),
    }


def loss(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
    x = torch.stack([torch.randn(3, generator=g) for g in generators])
    y = (x * weights["text.w"]) @ weights["unet.w"].T + weights["unet.b"]
    total = (y - x[:, :2]).square().sum(1)
    return Losses(total, {"distance": total})


def bits(weights: Weights) -> list[bytes]:
    return [value.numpy().tobytes() for value in weights.values()]


def moves(plan: Plan) -> dict[str, torch.Tensor]:
    """Returns the largest change of each tensor."""
    trained = train(start(), loss, plan)
    return {name: (trained[name] - value).abs().max() for name, value in start().items()}


# --- groups ----------------------------------------------------------------------------------


def test_the_longest_prefix_of_a_name_gives_its_rate() -> None:
    # The first step of Adam is as long as the rate.
    groups = (Group("unet", 1e-3), Group("unet.b", 1e-4))
    found = moves(Plan(steps=1, lr=1e-2, groups=groups))
    assert found["text.w"] == pytest.approx(1e-2, rel=1e-3)
    assert found["unet.w"] == pytest.approx(1e-3, rel=1e-3)
    assert found["unet.b"] == pytest.approx(1e-4, rel=1e-2)
    # All rates follow the schedule: with one step of warm-up, half of the peak.
    found = moves(Plan(steps=1, lr=1e-2, warmup=1, groups=groups))
    assert found["text.w"] == pytest.approx(5e-3, rel=1e-3)
    assert found["unet.w"] == pytest.approx(5e-4, rel=1e-3)


def test_groups_with_the_rate_of_the_plan_change_nothing() -> None:
    plan = Plan(steps=4, lr=1e-2, batch=2, optimizer="adamw", weight_decay=0.1)
    same = replace(plan, groups=(Group("text", 1e-2), Group("unet", 1e-2, 0.1)))
    assert bits(train(start(), loss, plan)) == bits(train(start(), loss, same))
    less = train(start(), loss, replace(plan, groups=(Group("unet", 1e-2, 0.0),)))
    whole = train(start(), loss, plan)
    assert not torch.equal(less["unet.w"], whole["unet.w"])


@pytest.mark.parametrize("prefix", ["vae", "unet.x"])
def test_a_group_without_tensors_is_an_error(prefix: str) -> None:
    with pytest.raises(InputError, match=f"begin with '{prefix}', got none"):
        train(start(), loss, Plan(steps=1, lr=1e-2, groups=(Group(prefix, 1e-3),)))


# --- optimizers ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "prodigy"])
def test_an_unread_tensor_does_not_change(optimizer: Any) -> None:
    """Not even by weight decay; and it has no moments."""
    plan = Plan(steps=3, lr=1e-2, optimizer=optimizer, weight_decay=0.5)
    trained = train(start(), loss, plan)
    assert torch.equal(trained["unread"], start()["unread"])
    assert not torch.equal(trained["unet.w"], start()["unet.w"])


def test_sgd_is_the_textbook_update() -> None:
    def bowl(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        return Losses(weights["w"].square().sum().expand(len(generators)) / 2, {})

    options = {"momentum": 0.5}
    plan = Plan(steps=2, lr=0.1, optimizer="sgd", optimizer_options=options)
    # w − 0.1 w = 0.9 w; the velocity is then 0.5 w + 0.9 w.
    found = train({"w": torch.ones(2)}, bowl, plan)["w"]
    torch.testing.assert_close(found, torch.full((2,), 0.9 - 0.1 * 1.4))


def test_prodigy_finds_its_rate(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(steps=300, lr=1.0, batch=2, micro_batch=2, optimizer="prodigy", weight_decay=1e-3)
    events: list[Any] = []
    train(start(), loss, plan, on_event=events.append)
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert sum(losses[-20:]) < 0.05 * sum(losses[:20])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"optimizer": "prodigy2"}, "did you mean 'prodigy'"),
        ({"schedule": "polynomal"}, "did you mean 'polynomial'"),
        ({"loss_scale": "dynamo"}, "did you mean 'dynamic'"),
        ({"optimizer_options": {"beta": (0.9, 0.99)}}, "did you mean 'betas'"),
        ({"optimizer": "sgd", "optimizer_options": {"betas": (0.9, 0.99)}}, "momentum, dampening"),
        ({"schedule": "linear", "schedule_options": {"power": 2}}, "among none, got 'power'"),
        (
            {"schedule": "polynomial", "schedule_options": {"power": "x"}},
            "a number for power",
        ),
        ({"schedule": "polynomial", "lr": 1e-8}, "must be smaller than initial lr"),
        ({"ema": 1.0}, "ema between 0 and 1"),
        ({"clip": 0.0}, "a clip above zero"),
        ({"optimizer": "prodigy", "groups": (Group("unet", 0.5),)}, "one learning rate for prodi"),
    ],
)
def test_wrong_settings_are_errors(own: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**({"steps": 2, "lr": 1.0} | own))


@pytest.mark.parametrize(
    "own",
    [
        {"optimizer_options": {"betas": (0.9, 1.5)}},
        {"optimizer_options": {"betas": 3}},
        {"optimizer": "sgd", "optimizer_options": {"nesterov": True}},
        {"optimizer": "prodigy", "optimizer_options": {"d0": -1.0}},
    ],
)
def test_options_out_of_range_are_errors(own: Any) -> None:
    plan = Plan(**({"steps": 2, "lr": 1.0} | own))
    with pytest.raises(InputError, match="Expected valid options of"):
        train(start(), loss, plan)


def test_betas_may_be_a_list() -> None:
    plan = Plan(steps=2, lr=1e-2, optimizer_options={"betas": (0.5, 0.9)})
    listed = replace(plan, optimizer_options={"betas": [0.5, 0.9]})
    assert bits(train(start(), loss, plan)) == bits(train(start(), loss, listed))
    assert plan.identity() == listed.identity()


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_a_missing_package_is_one_sentence() -> None:
    with pytest.raises(InputError, match="`pip install bitsandbytes`"):
        train(start(), loss, Plan(steps=1, lr=1e-3, optimizer="adamw-8bit"))


# --- schedules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("linear", {}),
        ("polynomial", {"power": 2.0}),
        ("cosine-with-restarts", {"num_cycles": 3}),
        ("cosine", {}),
    ],
)
def test_after_the_warm_up_rates_are_those_of_diffusers(schedule: Any, options: Any) -> None:
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = get_scheduler(
        schedule.replace("-", "_"), optimizer, num_warmup_steps=4, num_training_steps=20, **options
    )
    plan = Plan(steps=20, lr=0.3, warmup=4, schedule=schedule, schedule_options=options)
    assert [plan.rate(step) for step in range(4)] == pytest.approx([0.06, 0.12, 0.18, 0.24])
    for step in range(20):
        if step >= 4:
            assert plan.rate(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
            assert plan.rate(step, 3.0) == pytest.approx(10 * plan.rate(step), rel=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "polynomial"])
def test_a_warm_up_longer_than_the_training_rises(schedule: Any) -> None:
    rates = [
        rate_at(s, peak=1.0, lr=1.0, schedule=schedule, steps=3, warmup=9, options={})
        for s in range(3)
    ]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


# --- averages, loss scale --------------------------------------------------------------------


def test_the_result_is_the_average_of_the_weights() -> None:
    plan = Plan(steps=6, lr=1e-2, ema=0.3)
    seen: dict[int, torch.Tensor] = {}

    def watch(done: int, weights: Weights) -> None:
        seen[done] = weights["unet.w"].clone()

    plain = replace(plan, ema=None)
    train(start(), loss, plain, observers=[Observer(1, watch)])
    expected = seen[0]
    for step in range(1, 7):
        # As in diffusers: no averaging in the first step, then at most (1 + s) / (10 + s).
        decay = min(0.3, step / (9 + step)) if step > 1 else 0.0
        expected = decay * expected + (1 - decay) * seen[step]
    path = dict(seen)
    found = train(start(), loss, plan, observers=[Observer(1, watch)])
    assert torch.equal(found["unet.w"], seen[6])
    assert not torch.equal(found["unet.w"], path[6])
    torch.testing.assert_close(found["unet.w"], expected, atol=3e-4, rtol=0)


def half(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
    """Returns `loss` with the first product in float16, whose gradients overflow above 65504."""
    x = torch.stack([torch.randn(3, generator=g) for g in generators])
    y = (x.half() * weights["text.w"].half()).float() @ weights["unet.w"].T + weights["unet.b"]
    total = 10 * (y - x[:, :2]).square().sum(1)
    return Losses(total, {"distance": total})


def test_steps_with_infinite_gradients_are_skipped_and_reported() -> None:
    plan = Plan(steps=12, lr=1e-2, loss_scale="dynamic", ema=0.9)
    events: list[Any] = []
    seen: dict[int, list[bytes]] = {}
    watch = Observer(1, lambda done, weights: seen.update({done: bits(weights)}))
    train(start(), half, plan, on_event=events.append, observers=[watch])
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert 0 < len(skipped) < 12
    assert [event.skipped for event in skipped] == list(range(1, len(skipped) + 1))
    assert [event.scale for event in skipped] == [2.0 ** (15 - i) for i in range(len(skipped))]
    unchanged = [done for done in range(1, 13) if seen[done] == seen[done - 1]]
    assert unchanged == [event.done for event in skipped]
    assert [event.done for event in events if isinstance(event, Stepped)] == list(range(1, 13))


def test_a_power_of_two_as_loss_scale_changes_no_bits() -> None:
    plan = Plan(steps=5, lr=1e-2, clip=0.5)
    scaled = replace(plan, loss_scale="dynamic")
    assert bits(train(start(), loss, plan)) == bits(train(start(), loss, scaled))


def test_without_any_finite_gradient_the_training_ends() -> None:
    def broken(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        found = loss(weights, generators)
        return Losses(found.total * math.nan, {})

    with pytest.raises(InputError, match="finite gradients at some loss scale"):
        train(start(), broken, Plan(steps=100, lr=1e-2, loss_scale="dynamic"))


def test_a_non_finite_gradient_is_an_error_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"

    def breaking(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        # The square root of zero has an infinite slope, but is finite itself.
        off = (weights["unet.b"] - 1).abs().sum() < 0.035
        zero = (weights["text.w"] * 0).sum().sqrt() if not off else 0.0
        found = loss(weights, generators)
        return Losses(found.total + zero, found.parts)

    with pytest.raises(InputError, match=r"Expected finite gradients.*\(1 tensors, first text.w\)"):
        train(start(), breaking, Plan(steps=9, lr=1e-2, save_every=1), checkpoint=file)
    assert file.is_file()


# --- observers, estimates --------------------------------------------------------------------


@pytest.mark.parametrize("steps", [6, 7])
def test_observers_are_called_in_time_and_do_not_change_the_result(steps: int) -> None:
    calls: list[int] = []

    def noisy(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        found = loss(weights, generators)
        # As dropout does, it draws from the global generator.
        return Losses(found.total * (1 + torch.rand(())), found.parts)

    def validate(done: int, weights: Weights) -> Validated:
        calls.append(done)
        torch.randn(7)
        assert not torch.is_grad_enabled()
        return Validated(done, mean_losses(weights, loss, 0, 4)["distance"])

    events: list[Any] = []
    plan = Plan(steps=steps, lr=1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        watched = train(
            start(), noisy, plan, on_event=events.append, observers=[Observer(3, validate)]
        )
        torch.manual_seed(3)
        plain = train(start(), noisy, plan)
    assert bits(watched) == bits(plain)
    assert calls == [0, 3, 6] if steps == 6 else [0, 3, 6, 7]
    found = [event for event in events if isinstance(event, Validated)]
    assert [event.done for event in found] == calls
    assert found[-1].loss == mean_losses(watched, loss, 0, 4)["distance"]
    with pytest.raises(InputError, match="every 1 or more steps"):
        Observer(0, validate)


def test_a_resumed_run_observes_what_is_left(tmp_path: Path) -> None:
    calls: list[int] = []
    watch = Observer(2, lambda done, weights: calls.append(done))
    file = tmp_path / "state.safetensors"
    train(start(), loss, Plan(steps=4, lr=1e-2), checkpoint=file, observers=[watch])
    train(start(), loss, Plan(steps=7, lr=1e-2), checkpoint=file, observers=[watch])
    train(start(), loss, Plan(steps=7, lr=1e-2), checkpoint=file, observers=[watch])
    assert calls == [0, 2, 4, 6, 7]


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("adam", {}),
        ("adamw", {"amsgrad": True}),
        ("sgd", {}),
        ("sgd", {"momentum": 0.9}),
        ("prodigy", {}),
        ("prodigy", {"slice_p": 8}),
    ],
)
def test_the_estimated_memory_is_that_of_the_optimizer(optimizer: Any, options: Any) -> None:
    big = {"w": torch.ones(4000)}

    def bowl(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        return Losses(weights["w"].square().sum().expand(len(generators)), {})

    plan = Plan(steps=1, lr=1e-2, optimizer=optimizer, optimizer_options=options)
    run = Run(big, plan)
    run.weights["w"].square().sum().backward()
    run.update(0, {"": 0.0})
    state = run.state()["optimizer"].get("w", {})
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    size = sum(value.numel() * value.element_size() for value in tensors)
    assert size / 4000 == pytest.approx(state_bytes(optimizer, options), rel=0.01)
    found = estimate(big, bowl, replace(plan, ema=0.9))
    assert found.memory == 4000 * (4 + 4 + 4 + state_bytes(optimizer, options))
    assert (found.steps, found.trained) == (1, 4000)


def test_a_trial_measures_a_step_and_changes_nothing() -> None:
    plan = Plan(steps=3, lr=1e-2, batch=4, micro_batch=2)
    first = start()
    state = torch.get_rng_state()
    found = estimate(first, loss, plan)
    assert isinstance(found, Estimate)
    assert found.seconds_per_step > 0
    assert bits(first) == bits(start())
    assert all(value.grad is None for value in first.values())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_reads_no_weights_is_an_error() -> None:
    def constant(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        return Losses(torch.zeros(len(generators)), {})

    with pytest.raises(InputError, match="depends on the trained weights"):
        train(start(), constant, Plan(steps=1, lr=1e-2))


# --- micro-batches, checkpointing, processes -------------------------------------------------


def test_a_batch_of_four_is_two_micro_batches_of_two() -> None:
    whole = train(start(), loss, Plan(steps=5, lr=1e-2, batch=4, micro_batch=4))
    parts = train(start(), loss, Plan(steps=5, lr=1e-2, batch=4, micro_batch=2))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_uses_the_substituted_weights() -> None:
    """A model that is changed for the forward and the backward pass gives the same gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
        ).requires_grad_(False)
    own = {name: value.clone() for name, value in model.named_parameters()}

    def functional(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        x = torch.stack([torch.randn(3, generator=g) for g in generators])
        y = torch.func.functional_call(model, dict(weights), (x,))
        return Losses(y.square().sum(1), {})

    def checkpointed(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        x = torch.stack([torch.randn(3, generator=g) for g in generators])
        y: Any = checkpoint(model, x, use_reentrant=False)
        return Losses(y.square().sum(1), {})

    @contextmanager
    def substituted(weights: Weights) -> Iterator[None]:
        modules = [(model.get_submodule(n.rpartition(".")[0]), n) for n in weights]
        for module, name in modules:
            module._parameters[name.rpartition(".")[2]] = weights[name]  # pyright: ignore[reportArgumentType]
        try:
            yield
        finally:
            for module, name in modules:
                module._parameters[name.rpartition(".")[2]] = torch.nn.Parameter(
                    own[name], requires_grad=False
                )

    plan = Plan(steps=4, lr=1e-2, batch=4, micro_batch=2, optimizer="sgd")
    plain = train(own, functional, plan)
    found = train(own, checkpointed, plan, substituted=substituted)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value)
    assert not torch.equal(found["0.weight"], own["0.weight"])
    estimate(own, checkpointed, plan, substituted=substituted)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Each takes half of the batch; a tensor that none reads, or only one, is the same in both."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from safetensors.torch import save_file\n"
        "import test_editing_training as t\n"
        "folder = Path(sys.argv[1])\n"
        "rank = sys.argv[2]\n"
        "found = t.train(t.start(), t.sometimes, t.PLAN, checkpoint=folder / 'state')\n"
        "save_file(found, folder / f'{rank}.safetensors')\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(rank)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    from safetensors.torch import load_file

    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    one = train(start(), sometimes, PLAN)
    for name, value in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)
    assert torch.equal(one["unread"], torch.ones(4))


PLAN = Plan(steps=4, lr=1e-2, batch=2, micro_batch=2, optimizer="adamw", weight_decay=0.1)


def sometimes(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
    """Returns `loss`, which reads the bias for some samples only."""
    totals = []
    for own in generators:
        found = loss({**weights, "unet.b": torch.zeros(2)}, [own])
        bias = weights["unet.b"].square().sum() if float(torch.rand(1, generator=own)) < 0.4 else 0
        totals.append(found.total + bias)
    total = torch.cat(totals)
    return Losses(total, {"distance": total})
