"""Training of the subject classifier, a small ResNet in the role of Imagenette's ResNet-50."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from visdiff.miniature import world
from visdiff.miniature.train.clip import pixels
from visdiff.miniature.train.data import Renderings
from visdiff.miniature.train.loop import fit

#: Channels of the 4 × 4 feature map, which the captioner's image tower learns to predict.
WIDTH = 128


def train(
    data: Renderings, folder: Path, work: Path, *, steps: int, seed: int, device: torch.device
) -> torch.nn.Module:
    """Trains on scenes with one subject; writes ``folder`` in transformers' format."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    labels = world.SUBJECTS + world.PROFESSIONS
    torch.manual_seed(seed)
    model = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, WIDTH],
            depths=[1, 2, 2],
            layer_type="basic",
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
    ).to(device, memory_format=torch.channels_last)
    single = np.flatnonzero(data.truth[:, 1] < 0)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        index = np.sort(rng.choice(single, 96, replace=False))
        images = pixels(data.images[index], device)
        noise = torch.randn(images.shape, generator=generator).to(device)
        images = (images + 0.05 * noise).contiguous(memory_format=torch.channels_last)
        target = torch.from_numpy(data.truth[index, 0]).to(device)
        return F.cross_entropy(model(images).logits.float(), target, label_smoothing=0.05)

    fit(model, step, steps=steps, lr=4e-3, checkpoint=work / "classifier.pt", seed=seed)
    model.half().save_pretrained(folder)
    ConvNextImageProcessor(
        size={"shortest_edge": 64},
        crop_pct=1.0,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)
    return model.float()


def load(folder: Path) -> torch.nn.Module:
    """Loads the trained classifier, float32."""
    from transformers import ResNetForImageClassification

    return ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
