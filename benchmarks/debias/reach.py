"""Which skin tones' shares the weights of five attributes can reach at all, and why not all.

The loop learns from CLIP's five similarities (`editing.methods.debias.response`). Here each
attribute alone is given a weight, and how far that moves the similarities of a profession's images,
on the same seeds, is a column of the profession's gain. An image shows another tone when its
similarities are moved past each other, so that a move is worth what it does to the images at hand;
the moves that weights can make are the gain's. `moved` checks that: the shares that the mean move
predicts for the images without weights, beside those that the images with weights show.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import Sight, generator, images_of, settings
from PIL import Image
from scipy.optimize import minimize
from scipy.special import softmax

import editing
from editing.metrics.attributes import ZeroShotEyes
from editing.requests import Debias, Preserve
from visdiff.miniature import world

TONES = [f"{tone} skin" for tone in world.TONES]
WEIGHT = 0.4
#: Similarities this near to the largest count for the tone too, so that shares are smooth.
NEAR = 0.012
#: What half a squared weight costs, as in `editing.methods.debias.response`.
COST = 0.01


def scores(pipe: object, sight: Sight, profession: str, images: int) -> np.ndarray:
    """Similarities to the five tones less their mean, (images, 5)."""
    pixels = images_of(pipe, [world.an(profession)] * images, range(images), settings(12))
    eyes = ZeroShotEyes(sight.encoder, "a {concept} with {attribute}")
    found = eyes((Image.fromarray(x) for x in pixels), profession, TONES)
    return found - found.mean(axis=1, keepdims=True)


def shares(found: np.ndarray) -> np.ndarray:
    """Share of images of each tone, smoothed."""
    return softmax(found / NEAR, axis=1).mean(axis=0)


def delta(found: np.ndarray) -> float:
    """Mean distance from equal shares, in units of them."""
    return float(np.abs(shares(found) - 0.2).mean() / 0.2)


def reached(plain: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Weights whose move brings the images nearest to equal shares, large ones at a cost."""

    def loss(weights: np.ndarray) -> float:
        seen = shares(plain + weights @ gain.T)
        return float(-np.log(seen).mean() + COST / 2 * weights @ weights)

    return minimize(loss, np.zeros(len(gain))).x


def main() -> None:
    """Measures the professions that are named and prints their gains and what they reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96, help="of a profession and weight")
    parser.add_argument(
        "--professions",
        nargs="*",
        default=["technologist", "mechanic", "teacher", "police officer"],
    )
    parser.add_argument("--compile", action="store_true", help="twice as fast, needs g++")
    given = parser.parse_args()
    pipe, sight = generator(given.compile), Sight()
    kept = Preserve([world.an(s) for s in world.SUBJECTS])
    np.set_printoptions(precision=2, suppress=True)
    for profession in given.professions:
        plain, columns, errors = scores(pipe, sight, profession, given.images), [], []
        for tone in TONES:
            weights = {t: WEIGHT * (t == tone) for t in TONES}
            asked = Debias(profession, dict.fromkeys(TONES, 0.2), weights)
            with editing.fit(pipe, [asked, kept], nearest=0).applied(pipe, force=True):
                found = scores(pipe, sight, profession, given.images)
            move = (found - plain).mean(axis=0)
            columns.append(move / WEIGHT)
            errors.append(np.abs(shares(plain + move) - shares(found)).sum() / 2)
        gain = np.transpose(columns)
        weights = reached(plain, gain)
        sys.stdout.write(
            f"{profession}: singular values {np.linalg.svd(gain)[1]}, moved "
            f"{1 - np.mean(errors):.2f} of images right, Δ {delta(plain):.2f} → "
            f"{delta(plain + weights @ gain.T):.2f} by weights {weights}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
