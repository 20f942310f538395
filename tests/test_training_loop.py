"""Tests of the miniature's training loop: a resumed run equals an uninterrupted one."""

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
def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, die_at: int) -> None:
    uninterrupted, killed = model(), model()
    average = train(uninterrupted, tmp_path / "uninterrupted.pt")
    with pytest.raises(Killed):
        train(killed, tmp_path / "resumed.pt", die_at)
    # A new process starts from the checkpoint, or from the seed if there is none.
    resumed = model()
    resumed_average = train(resumed, tmp_path / "resumed.pt")
    for one, two in zip(weights(uninterrupted), weights(resumed), strict=True):
        assert np.array_equal(one, two)
    for one, two in zip(weights(average), weights(resumed_average), strict=True):
        assert np.array_equal(one, two)


def test_both_optimizers_update_their_parameters(tmp_path: Path) -> None:
    before, net = weights(model()), model()
    train(net, tmp_path / "c.pt")
    for old, new in zip(before, weights(net), strict=True):
        assert not np.array_equal(old, new)


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    net = model()
    train(net, tmp_path / "c.pt")
    again = model()
    train(again, tmp_path / "c.pt", die_at=0)
    for one, two in zip(weights(net), weights(again), strict=True):
        assert np.array_equal(one, two)


def test_zero_gradient_is_an_error_in_the_first_step(tmp_path: Path) -> None:
    """Gradients that are all zero are a defect of differentiation, not of the data."""

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        first, rest = net.get_submodule("0"), net.get_submodule("2")
        return (first(torch.ones(2, 4)).sum() + 0 * rest(torch.ones(2, 8)).sum()).pow(2)

    net = model()
    with pytest.raises(RuntimeError, match=r"zeros in 1 \(2\.weight"):
        fit(net, step, steps=1, lr=1e-2, checkpoint=tmp_path / "c.pt", seed=0)
