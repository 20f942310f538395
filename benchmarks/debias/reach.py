"""Which shares of skin tones the weights of five attributes can reach, and what limits them.

The loop learns from CLIP's five similarities (`editing.methods.debias.response`). Here one
attribute at a time gets a weight. The mean shift of the similarities of a profession's images, on
the same seeds, is one column of the profession's gain matrix. An image changes its tone when the
order of its similarities changes, so the effect of a shift depends on the images; the reachable
shifts are those of the gain matrix. The script checks this model: it compares the shares that the
mean shift predicts for the unedited images with the shares of the edited images.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import Scorers, draw_images, load_generator, settings
from PIL import Image
from scipy.optimize import minimize
from scipy.special import softmax

import editing
from editing.metrics.attributes import ZeroShotScorer
from editing.requests import Debias, Preserve
from visdiff.miniature import world

TONES = [f"{tone} skin" for tone in world.TONES]
WEIGHT = 0.4
#: Softmax temperature of the similarities, which makes shares differentiable.
TEMPERATURE = 0.012
#: Penalty on half the squared weights, as in `editing.methods.debias.response`.
COST = 0.01


def similarities(pipe: object, scorers: Scorers, profession: str, images: int) -> np.ndarray:
    """Returns the similarities to the five tones, minus their mean, (images, 5)."""
    pixels = draw_images(pipe, [world.an(profession)] * images, range(images), settings(12))
    scorer = ZeroShotScorer(scorers.encoder, "a {concept} with {attribute}")
    found = scorer((Image.fromarray(x) for x in pixels), profession, TONES)
    return found - found.mean(axis=1, keepdims=True)


def shares(found: np.ndarray) -> np.ndarray:
    """Returns the smoothed share of images of each tone, (5,)."""
    return softmax(found / TEMPERATURE, axis=1).mean(axis=0)


def delta(found: np.ndarray) -> float:
    """Returns the mean absolute difference from equal shares, relative to an equal share."""
    return float(np.abs(shares(found) - 0.2).mean() / 0.2)


def fit_weights(plain: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Fits the weights whose predicted shift brings the shares nearest to equal, with a penalty."""

    def loss(weights: np.ndarray) -> float:
        share = shares(plain + weights @ gain.T)
        return float(-np.log(share).mean() + COST / 2 * weights @ weights)

    return minimize(loss, np.zeros(len(gain))).x


def main() -> None:
    """Measures the chosen professions; prints their singular values and the reachable Δ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96, help="images per profession and weight")
    parser.add_argument(
        "--professions",
        nargs="*",
        default=["technologist", "mechanic", "teacher", "police officer"],
    )
    parser.add_argument("--compile", action="store_true", help="twice as fast, needs g++")
    args = parser.parse_args()
    pipe, scorers = load_generator(args.compile), Scorers()
    preserved = Preserve([world.an(s) for s in world.SUBJECTS])
    np.set_printoptions(precision=2, suppress=True)
    for profession in args.professions:
        plain, columns, errors = similarities(pipe, scorers, profession, args.images), [], []
        for tone in TONES:
            weights = {t: WEIGHT * (t == tone) for t in TONES}
            request = Debias(profession, dict.fromkeys(TONES, 0.2), weights)
            with editing.fit(pipe, [request, preserved], nearest=0).applied(pipe, force=True):
                found = similarities(pipe, scorers, profession, args.images)
            move = (found - plain).mean(axis=0)
            columns.append(move / WEIGHT)
            errors.append(np.abs(shares(plain + move) - shares(found)).sum() / 2)
        gain = np.transpose(columns)
        weights = fit_weights(plain, gain)
        sys.stdout.write(
            f"{profession}: singular values {np.linalg.svd(gain)[1]}, predicted tone "
            f"right for {1 - np.mean(errors):.2f} of images, Δ {delta(plain):.2f} → "
            f"{delta(plain + weights @ gain.T):.2f} by weights {weights}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
