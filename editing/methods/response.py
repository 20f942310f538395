r"""What the weights of a debiased concept do to its images: a response, learned from all of them.

A weight is asked for one attribute and moves others too: "dark skin" draws as many people of a
medium-dark one, and "medium skin" fewer of itself. A controller that raises the weight of whatever
is rare turns in circles. So the answer is identified, and not from counts: which attribute is
nearest says little of an image, how near each is says how far the image has moved. The scores of
a concept's images, less their mean over attributes, are found to move together, by

    mean score = a_c + G_c w

where the gain G_c, (k, k), lies about a mean that is shared by all concepts with the same
attributes, so that images of each tell something about the others. Both are the posterior mean
given every look, recent ones before older (the true answer is not quite linear, and what counts is
how it is here). The prior is normal throughout, in units of the spread of scores: a_c about
nothing, a concept's gain about the mean, the mean about a multiple of the identity.

Shares then follow from images that are at hand: moved by what other weights would add to their
scores, some show another attribute. Not all images of a look move alike, so that this is right near
a look and less so far from it: each look of the concept has its say, the nearest the most, and what
was tried and failed is not tried again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

Array = np.ndarray

#: Mean of the prior of the mean gain: times the identity less its mean, in spreads per weight.
_GAIN = 2.0
#: Precisions of the mean gain, of each concept's about it, and of a concept's mean score.
_GAIN_PRECISION, _OWN_PRECISION, _BIAS_PRECISION = 0.1, 0.5, 0.1
#: What a look of the round before is worth, and how many images' worth a look is at most: with
#: any number of them, the answer is not linear.
_FADING, _WORTH = 0.9, 40
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
        gain: Spreads per weight, (concepts, k, k).
        spread: Standard deviation of scores among images of equal weights, pooled; > 0.
    """

    gain: Array
    spread: float

    def towards(
        self, concept: int, weights: Array, scores: Sequence[Array], goal: Array, step: float = 1.0
    ) -> Array:
        """Returns weights that should bring a concept nearer to its shares.

        They make Σ goal log(goal / share) as small as can be, a little paid for large weights,
        within a box about the weights of the look that was nearest. Unlike a distance of logits
        this does not let the rarest attribute have its way whatever it costs the others where a
        goal cannot be reached.

        Args:
            concept: Which row.
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

        def distance(new: Array) -> float:
            way = new - weights
            near = -(way**2).sum(axis=1) / (2 * _BELIEVED**2)
            believed = softmax(np.log(images) + near)
            moves = self.spread * way @ self.gain[concept].T
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


def _counted(scores: Array) -> Array:
    """Share of images that show each attribute."""
    return np.bincount(scores.argmax(axis=1), minlength=scores.shape[1]) / len(scores)


def identified(
    concepts: Sequence[int], weights: Array, scores: Sequence[Array], ages: Sequence[int]
) -> Response:
    """Learns the response from everything that was seen.

    Args:
        concepts: Of each look, from 0 up, n of them.
        weights: In each look, (n, k).
        scores: In each look, of its images, (images, k).
        ages: Rounds since each look, 0 for the last.

    Returns:
        The posterior mean.
    """
    index = np.asarray(concepts)
    n, k = weights.shape
    among = int(index.max()) + 1
    alone = [each - each.mean(axis=1, keepdims=True) for each in scores]
    means = np.array([each.mean(axis=0) for each in alone])
    within = sum(float(((a - m) ** 2).sum()) for a, m in zip(alone, means, strict=True))
    spread = np.sqrt(within / (k * sum(len(each) for each in alone)))
    spread = float(spread) if spread > 0 else 1.0
    # Scores are linear in what is sought: each concept's mean, the common gain and its own.
    own = (index[:, None] == np.arange(among)).astype(float)
    crossed = (own[:, :, None] * weights[:, None, :]).reshape(n, among * k)
    known = np.concatenate([own, weights, crossed], axis=1)
    worth = _FADING ** np.asarray(ages, float) / (
        1 / np.array([len(each) for each in scores]) + 1 / _WORTH
    )
    ends = np.cumsum([among, k])
    precision = np.repeat([_BIAS_PRECISION, _GAIN_PRECISION, _OWN_PRECISION], [among, k, among * k])
    prior = np.zeros((known.shape[1], k))
    prior[among : ends[1]] = _GAIN * (np.eye(k) - 1 / k)
    weighed = known.T * worth
    off = weighed @ (means / spread - known @ prior)
    found = prior + np.linalg.solve(weighed @ known + np.diag(precision), off)
    _, mean, each = np.split(found, ends)
    return Response(np.swapaxes(mean + each.reshape(among, k, k), 1, 2), spread)
