r"""What the weights of a debiased concept do to its images: a response, learned from all of them.

A weight is asked for one attribute and moves others too: "dark skin" draws as many people of a
medium-dark one, and "medium skin" fewer of itself. A controller that raises the weight of whatever
is rare turns in circles. So the answer is identified, and not from counts: which attribute is
nearest says little of an image, how near each is says how far the image has moved. The scores of
a concept's images, less their mean over attributes, are found to move together: the mean score is
a function of weights, a Gaussian process (Rasmussen and Williams 2006, chapter 2) with

    mean       g (w - mean of w)
    covariance a² [c = c'] + (b² + b'² [c = c']) w · w' + (r² + r'² [c = c']) exp(-|w - w'|² / 2 l²)

between concepts c and c' at weights w and w', the same for each attribute: a mean score of the
concept's own, a gain that is mostly common to all concepts with the same attributes, and what is
not linear in the answer. Images of each concept thus tell something about the others, and what a
look has shown is held to near its weights.

Shares then follow from images that are at hand: moved by what other weights would add to their
scores, some show another attribute. Not all images of a look move alike, so that this is right near
a look and less so far from it: each look of the concept has its say, the nearest the most, and what
was tried and failed is not tried again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve
from scipy.optimize import minimize
from scipy.special import softmax

Array = np.ndarray

#: g, in spreads of scores per weight.
_GAIN = 2.0
#: a²; b² and b'²; r² and r'²: variances, in squared spreads. Then l, in weights.
_BIAS = 10.0
_COMMON_GAIN, _OWN_GAIN = 10.0, 1.0
_COMMON_BEND, _OWN_BEND = 1.0, 1.0
_REACH = 0.7
#: Variance of a look's mean beside that of its finitely many images: what repeats nowhere.
_NOISE = 0.02
#: Scores this near to the largest, in spreads, count for the attribute too: shares are smooth.
_NEAR = 0.5
#: How far a look is believed, in weights: the standard deviation of a normal kernel.
_BELIEVED = 0.35
#: Images that counts are shrunk by towards smooth shares.
_DOUBT = 3
#: What half a squared weight costs beside the distance of shares, and how far a weight moves at
#: most: what hardly answers must not be paid for with weights that make another image.
_WEIGHT_COST, _FURTHEST = 0.01, 0.3


@dataclass(frozen=True, eq=False)
class Response:
    """How scores answer to weights.

    Attributes:
        concepts: Of each look that it was learned from, (n,).
        weights: In each look, (n, k).
        pull: What each look adds for a covariance of one with it, (n, k), in spreads.
        spread: Standard deviation of scores among images of equal weights, pooled; > 0.
    """

    concepts: Array
    weights: Array
    pull: Array
    spread: float

    def means(self, concept: int, weights: Array) -> Array:
        """Returns the mean scores that a concept's images should have, less what all share.

        Args:
            concept: Which.
            weights: Some, (m, k).

        Returns:
            The posterior mean, (m, k), in spreads.
        """
        known = _covariance(np.full(len(weights), concept), weights, self.concepts, self.weights)
        return _expected(weights) + known @ self.pull

    def towards(
        self, concept: int, weights: Array, scores: Sequence[Array], goal: Array, step: float = 1.0
    ) -> Array:
        """Returns weights that should bring a concept nearer to its shares.

        They make Σ goal log(goal / share) as small as can be, a little paid for large weights,
        within a box about the weights of the look that was nearest. Unlike a distance of logits
        this does not let the rarest attribute have its way whatever it costs the others where a
        goal cannot be reached.

        Args:
            concept: Which.
            weights: Of each look at the concept, (n, k).
            scores: Of each look's images, n of (images, k).
            goal: Wanted shares, (k,), each above 0.
            step: Share of the way, > 0.
        """
        images = np.array([len(each) for each in scores])
        # Smooth shares are not counts: by what they differed in a look they are off near it.
        seen = images[:, None] * [_counted(each) for each in scores]
        smooth = images[:, None] * [self._smooth(each) for each in scores]
        off = (seen + _DOUBT) / (smooth + _DOUBT)
        here = self.means(concept, weights)

        def distance(new: Array) -> float:
            near = -((new - weights) ** 2).sum(axis=1) / (2 * _BELIEVED**2)
            believed = softmax(np.log(images) + near)
            moves = self.spread * (self.means(concept, new[None]) - here)
            moved = [self._smooth(each + move) for each, move in zip(scores, moves, strict=True)]
            shares = believed @ (moved * off)
            return float(-goal @ np.log(shares / shares.sum()) + _WEIGHT_COST / 2 * new @ new)

        start = min(weights, key=distance)
        box = [(weight - _FURTHEST, weight + _FURTHEST) for weight in start]
        end = minimize(distance, start, method="L-BFGS-B", bounds=box).x
        return start + step * (end - start)

    def _smooth(self, scores: Array) -> Array:
        """Shares when an image counts for all attributes that are near, each above 0."""
        found = softmax(scores / (self.spread * _NEAR), axis=1).mean(axis=0)
        return np.maximum(found, np.finfo(float).tiny)


def identified(concepts: Sequence[int], weights: Array, scores: Sequence[Array]) -> Response:
    """Learns the response from everything that was seen.

    Args:
        concepts: Of each look, n of them.
        weights: In each look, (n, k).
        scores: In each look, of its images, (images, k).
    """
    index = np.asarray(concepts)
    images = np.array([len(each) for each in scores])
    alone = [each - each.mean(axis=1, keepdims=True) for each in scores]
    means = np.array([each.mean(axis=0) for each in alone])
    within = sum(float(((a - m) ** 2).sum()) for a, m in zip(alone, means, strict=True))
    spread = np.sqrt(within / (weights.shape[1] * images.sum()))
    spread = float(spread) if spread > 0 else 1.0
    known = _covariance(index, weights, index, weights) + np.diag(1 / images + _NOISE)
    pull = solve(known, means / spread - _expected(weights), assume_a="pos")
    return Response(index, weights, pull, spread)


def _expected(weights: Array) -> Array:
    """The mean before anything was seen: a weight is for its own attribute."""
    return _GAIN * (weights - weights.mean(axis=1, keepdims=True))


def _covariance(one: Array, at: Array, other: Array, there: Array) -> Array:
    """Between concepts ``one`` at weights ``at`` and concepts ``other`` at weights ``there``."""
    same = one[:, None] == other
    far = ((at[:, None] - there) ** 2).sum(axis=2)
    return (
        _BIAS * same
        + (_COMMON_GAIN + _OWN_GAIN * same) * (at @ there.T)
        + (_COMMON_BEND + _OWN_BEND * same) * np.exp(-far / (2 * _REACH**2))
    )


def _counted(scores: Array) -> Array:
    """Share of images that show each attribute."""
    return np.bincount(scores.argmax(axis=1), minlength=scores.shape[1]) / len(scores)
