"""``python -m visdiff.miniature.train``: trains the bundled models from the artwork and a seed.

Requires ``npm install @iconify-json/noto @iconify-json/twemoji @iconify-json/fluent-emoji-flat``
in the folder ``--art``. Every model resumes from its checkpoint in ``--work``.
"""

import argparse
import logging
from pathlib import Path

import torch

from visdiff.torchvision_compat import ensure_torchvision

#: Model → training steps, in the order of their dependencies.
STEPS = {
    "vae": 2700,
    "classifier": 2500,
    "clip": 6000,
    "clip-image": 2500,
    "captioner": 4600,
    "diffusion": 7000,
}


def main() -> None:
    """Trains the models named on the command line, or all of them in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", choices=[[], *STEPS], default=[])
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and renderings")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "weights")
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, help="number of steps, instead of the model's default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    ensure_torchvision()
    from visdiff.miniature.train.data import Renderings

    data = Renderings.make(arguments.work, arguments.art, arguments.scenes, arguments.seed)
    for name in arguments.models or STEPS:
        _train(name, data, arguments)


def _train(name: str, data, arguments: argparse.Namespace) -> None:
    from visdiff.miniature.train import captioner, classifier, clip, diffusion, vae

    out, work, device = arguments.out, arguments.work, torch.device(arguments.device)
    common = {"steps": arguments.steps or STEPS[name], "seed": arguments.seed, "device": device}
    if name == "vae":
        vae.train(data, out / "diffusion", work, **common)
    elif name == "clip":
        clip.train(data, out / "clip", work, **common)
    elif name == "clip-image":
        clip.train_image_tower(data, out / "clip", work, **common)
    elif name == "classifier":
        classifier.train(data, out / "classifier", work, **common)
    elif name == "captioner":
        captioner.train(
            data, out / "captioner", work, classifier.load(out / "classifier"), **common
        )
    else:
        latents = vae.cached_latents(vae.load(out / "diffusion"), data, work / "latents.pt", device)
        encoder = clip.text_encoder(clip.load(out / "clip"), out / "clip")
        diffusion.train(data, latents, encoder, out / "clip", out / "diffusion", work, **common)


if __name__ == "__main__":
    main()
