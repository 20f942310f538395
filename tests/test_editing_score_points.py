"""Tests of the training points from runs of the frozen model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch

from editing.methods.score.trajectories import Route, ddim, draw, evaluations, load_or_draw
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.sampling import Settings
from editing.pipelines.sampling import draw as images

ROUTES = [Route("a dog", 3), Route("", 4), Route("a church on sand", 5)]


def make_pipeline(family: str) -> Any:
    """Returns a tiny pipeline, the same in every run; torch initialises its biases randomly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(tiny, family)()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return make_pipeline("sd1")


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_run_ends_in_the_image_of_the_pipeline(family: str) -> None:
    """The final latents of a run decode to the pipeline's image of the same prompt and seed."""
    pipe = make_pipeline(family)
    found = load_or_draw(Denoiser(pipe), ROUTES, steps=4, guidance=3.0)
    assert found.inputs.shape == (3, 4, 4, 8, 8)
    assert found.timesteps.tolist() == sorted(found.timesteps.tolist(), reverse=True)
    settings = Settings(steps=4, guidance=3.0, scheduler="DDIM")
    expected = images(pipe, ["a dog", "a church on sand"], [3, 5], settings=settings)
    for row, picture in zip((0, 2), expected, strict=True):
        with torch.no_grad():
            latents = found.finals[row : row + 1] / pipe.vae.config.scaling_factor
            pixels = pipe.vae.decode(latents, return_dict=False)[0]
        ours = np.asarray(pipe.image_processor.postprocess(pixels, output_type="pil")[0])
        assert np.abs(ours.astype(int) - picture.astype(int)).max() <= 1


def test_points_are_the_inputs_of_the_denoiser(pipe: Any) -> None:
    """Inputs of a scheduler with other units of noise are scaled for the denoiser."""
    from diffusers import EulerDiscreteScheduler

    denoiser = Denoiser(pipe)
    euler: Any = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    inputs: list[torch.Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: inputs.append(args[0].clone()))
    try:
        found = draw(denoiser, euler, ROUTES[1:2], steps=4, guidance=3.0)
    finally:
        hook.remove()
    torch.testing.assert_close(found.inputs[0], torch.cat(inputs))
    # Pure noise, scaled to the variance of the denoiser's training inputs, not to Euler's σ.
    assert 0.5 < float(found.inputs[0, 0].std()) < 2
    assert float(euler.init_noise_sigma) > 2
    # Latents must not be clipped.
    assert not ddim(euler).config.clip_sample


def test_the_resolution_defaults_to_that_of_the_model(pipe: Any) -> None:
    assert Denoiser(pipe).size == (32, 32)
    assert Denoiser(pipe, 64, 32).shape == (4, 16, 8)
    found = load_or_draw(Denoiser(pipe, 64, 32), ROUTES[:1], steps=2, guidance=1.0)
    assert found.finals.shape == (1, 4, 16, 8)


def test_runs_have_the_predicted_cost_and_are_independent(pipe: Any) -> None:
    rows = 0

    def count(module: Any, args: Any) -> None:
        nonlocal rows
        rows += len(args[0])

    hook = pipe.unet.register_forward_pre_hook(count)
    try:
        together = load_or_draw(Denoiser(pipe), ROUTES, steps=4, guidance=3.0)
    finally:
        hook.remove()
    assert rows == evaluations(ROUTES, 4, 3.0) == 4 * (2 + 1 + 2)
    for row, route in enumerate(ROUTES):
        alone = load_or_draw(Denoiser(pipe), [route], steps=4, guidance=3.0)
        torch.testing.assert_close(together.finals[row], alone.finals[0], rtol=1e-4, atol=1e-4)


def test_stored_runs_are_those_of_one_encoding_of_the_empty_prompt(tmp_path: Path) -> None:
    pipe = tiny.sdxl()
    for zeros in (True, False, True):
        pipe.register_to_config(force_zeros_for_empty_prompt=zeros)
        load_or_draw(Denoiser(pipe), ROUTES[:1], steps=1, guidance=3.0, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
