"""The miniature's training loop: a killed run ends where an uninterrupted one does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from visdiff.miniature.train.loop import fit

STEPS = 8


class Killed(Exception):
    pass


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8, bias=False), nn.Linear(8, 1))


def train(net: nn.Module, checkpoint: Path, die_at: int | None = None) -> nn.Module | None:
    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        if i == die_at:
            raise Killed
        x = torch.from_numpy(rng.standard_normal((16, 4)).astype(np.float32))
        noise = 0.01 * torch.randn(x.shape, generator=generator)
        return (net(x + noise) - x.sum(1, keepdim=True)).pow(2).mean()

    return fit(
        net,
        step,
        steps=STEPS,
        lr=1e-2,
        checkpoint=checkpoint,
        seed=3,
        ema_decay=0.9,
        matrices=[net.get_parameter("2.weight")],
        save_every=2,
    )


def weights(net: nn.Module | None) -> list[np.ndarray]:
    assert net is not None
    return [p.detach().numpy().copy() for p in net.parameters()]


@pytest.mark.parametrize("die_at", [1, 4, 5])
def test_n_steps_are_some_a_resume_and_the_rest(tmp_path: Path, die_at: int) -> None:
    whole, resumed = model(), model()
    average = train(whole, tmp_path / "whole.pt")
    with pytest.raises(Killed):
        train(resumed, tmp_path / "resumed.pt", die_at)
    # Another process starts from other weights; all of them come from the checkpoint, if there is
    # one, else from the seed.
    again = model()
    average_again = train(again, tmp_path / "resumed.pt")
    for one, two in zip(weights(whole), weights(again), strict=True):
        assert np.array_equal(one, two)
    for one, two in zip(weights(average), weights(average_again), strict=True):
        assert np.array_equal(one, two)


def test_both_optimizers_move_what_is_theirs(tmp_path: Path) -> None:
    before, net = weights(model()), model()
    train(net, tmp_path / "c.pt")
    for old, new in zip(before, weights(net), strict=True):
        assert not np.array_equal(old, new)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    net = model()
    train(net, tmp_path / "c.pt")
    again = model()
    train(again, tmp_path / "c.pt", die_at=0)
    for one, two in zip(weights(net), weights(again), strict=True):
        assert np.array_equal(one, two)


def test_a_weight_that_learns_nothing_is_told_at_once(tmp_path: Path) -> None:
    """Zeros where a gradient should be are a defect of what differentiates, not of the data."""

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        first, rest = net.get_submodule("0"), net.get_submodule("2")
        return (first(torch.ones(2, 4)).sum() + 0 * rest(torch.ones(2, 8)).sum()).pow(2)

    net = model()
    with pytest.raises(RuntimeError, match=r"zeros in 1 \(2\.weight"):
        fit(net, step, steps=1, lr=1e-2, checkpoint=tmp_path / "c.pt", seed=0)
