r"""The response of a concept's images to its weights, learned from all evaluations.

The weight of one attribute moves others too: more weight for "dark skin" draws as many people of a
medium-dark one, and more for "medium skin" can draw fewer of a medium one. A controller that raises
the weight of whatever is rare therefore cycles. Instead the response is estimated, and from scores
rather than counts: scores show how far an image has moved, while the highest-scoring attribute says
little. The scores of a concept's images, minus their mean over attributes, move together. The mean
score is modelled as a function of the weights, by a Gaussian process (Rasmussen and Williams 2006,
chapter 2) with

    mean       g (w - mean of w)
    covariance a² [c = c'] + (b² + b'² [c = c']) w · w' + (r² + r'² [c = c']) exp(-|w - w'|² / 2 l²)

between concepts c and c' at weights w and w', the same for each attribute. The terms are a mean
score for each concept, a gain that is mostly shared by all concepts with the same attributes, and a
nonlinear part. Images of one concept are thus informative about the others, and the nonlinear part
of an evaluation applies near its weights only.

scikit-learn has no kernel for such shared and separate terms, so the few lines of algebra are here.

Shares are predicted from the images at hand: their scores are shifted by the predicted change, and
some of them then show another attribute. Not all images of an evaluation move alike, so the
prediction is good near an evaluation and worse far from it. Every evaluation of the concept
contributes, the nearest the most, so that weights that failed are not tried again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve
from scipy.optimize import minimize
from scipy.special import softmax

Array = np.ndarray

#: g, in spreads of the scores per unit of weight.
_GAIN = 2.0
#: a²; b² and b'²; r² and r'²: variances, in squared spreads; l, in units of weight.
_BIAS = 10.0
_COMMON_GAIN, _OWN_GAIN = 10.0, 1.0
_COMMON_NONLINEAR, _OWN_NONLINEAR = 1.0, 1.0
_LENGTH_SCALE = 0.7
#: Noise variance of the mean of an evaluation, in addition to that of its finite sample.
_NOISE = 0.02
#: Softmax temperature, in spreads, that makes shares smooth functions of the scores.
_TEMPERATURE = 0.5
#: Standard deviation, in units of weight, of the normal kernel that weighs evaluations.
_KERNEL_WIDTH = 0.35
#: Pseudo-count of images by which counts are shrunk towards the smooth shares.
_PSEUDO_COUNT = 3
#: Cost of half a squared weight relative to the divergence of shares, and the largest step of a
#: weight: an attribute that hardly responds must not get weights that change the image altogether.
_WEIGHT_COST, _LARGEST_STEP = 0.01, 0.3


@dataclass(frozen=True, eq=False)
class Response:
    """A model of how scores respond to weights.

    Attributes:
        concepts: Index of the concept of each training evaluation, (n,).
        weights: Weights of each training evaluation, (n, k).
        coefficients: Coefficient of the covariance with each evaluation, (n, k), in spreads.
        spread: Pooled standard deviation of scores among images at equal weights, > 0.
    """

    concepts: Array
    weights: Array
    coefficients: Array
    spread: float

    def means(self, concept: int, weights: Array) -> Array:
        """Returns the predicted mean scores of a concept, minus their mean over attributes.

        Args:
            concept: Index of the concept.
            weights: (m, k).

        Returns:
            The posterior mean, (m, k), in spreads.
        """
        known = _covariance(np.full(len(weights), concept), weights, self.concepts, self.weights)
        return _prior_mean(weights) + known @ self.coefficients

    def next_weights(
        self, concept: int, weights: Array, scores: Sequence[Array], goal: Array, step: float = 1.0
    ) -> Array:
        """Returns weights that are predicted to bring a concept nearer to its shares.

        They minimise Σ goal log(goal / share) plus a small penalty on large weights, within a box
        around the weights of the nearest evaluation. Unlike a distance of logits, this objective
        is not dominated by the rarest attribute where the goal cannot be reached.

        Args:
            concept: Index of the concept.
            weights: Weights of each evaluation of the concept, (n, k).
            scores: Scores of the images of each evaluation, n arrays (images, k).
            goal: Wanted shares, (k,), each above 0.
            step: Fraction of the step, > 0.

        Returns:
            (k,).
        """
        images = np.array([len(each) for each in scores])
        # The ratio of counts to smooth shares in an evaluation corrects predictions near it.
        counted = images[:, None] * [_count_shares(each) for each in scores]
        smooth = images[:, None] * [self._smooth_shares(each) for each in scores]
        correction = (counted + _PSEUDO_COUNT) / (smooth + _PSEUDO_COUNT)
        current_means = self.means(concept, weights)

        def distance(new: Array) -> float:
            near = -((new - weights) ** 2).sum(axis=1) / (2 * _KERNEL_WIDTH**2)
            kernel = softmax(np.log(images) + near)
            moves = self.spread * (self.means(concept, new[None]) - current_means)
            moved = [
                self._smooth_shares(each + move) for each, move in zip(scores, moves, strict=True)
            ]
            shares = kernel @ (moved * correction)
            return float(-goal @ np.log(shares / shares.sum()) + _WEIGHT_COST / 2 * new @ new)

        start = min(weights, key=distance)
        box = [(weight - _LARGEST_STEP, weight + _LARGEST_STEP) for weight in start]
        end = minimize(distance, start, method="L-BFGS-B", bounds=box).x
        return start + step * (end - start)

    def _smooth_shares(self, scores: Array) -> Array:
        """Returns smooth shares, (k,), each above 0: an image counts for all near attributes."""
        found = softmax(scores / (self.spread * _TEMPERATURE), axis=1).mean(axis=0)
        return np.maximum(found, np.finfo(float).tiny)


def fit_response(concepts: Sequence[int], weights: Array, scores: Sequence[Array]) -> Response:
    """Returns the response, learned from all evaluations.

    Args:
        concepts: Index of the concept of each evaluation, n of them.
        weights: Weights of each evaluation, (n, k).
        scores: Scores of the images of each evaluation, (images, k).
    """
    index = np.asarray(concepts)
    images = np.array([len(each) for each in scores])
    centred = [each - each.mean(axis=1, keepdims=True) for each in scores]
    means = np.array([each.mean(axis=0) for each in centred])
    within = sum(float(((a - m) ** 2).sum()) for a, m in zip(centred, means, strict=True))
    spread = np.sqrt(within / (weights.shape[1] * images.sum()))
    spread = float(spread) if spread > 0 else 1.0
    known = _covariance(index, weights, index, weights) + np.diag(1 / images + _NOISE)
    coefficients = solve(known, means / spread - _prior_mean(weights), assume_a="pos")
    return Response(index, weights, coefficients, spread)


def _prior_mean(weights: Array) -> Array:
    """Returns the prior mean: a weight raises the score of its own attribute."""
    return _GAIN * (weights - weights.mean(axis=1, keepdims=True))


def _covariance(
    concepts: Array, weights: Array, other_concepts: Array, other_weights: Array
) -> Array:
    """Returns the covariance between two sets of (concepts, weights), (n, m)."""
    same = concepts[:, None] == other_concepts
    far = ((weights[:, None] - other_weights) ** 2).sum(axis=2)
    return (
        _BIAS * same
        + (_COMMON_GAIN + _OWN_GAIN * same) * (weights @ other_weights.T)
        + (_COMMON_NONLINEAR + _OWN_NONLINEAR * same) * np.exp(-far / (2 * _LENGTH_SCALE**2))
    )


def _count_shares(scores: Array) -> Array:
    """Returns the share of images that show each attribute, (k,)."""
    return np.bincount(scores.argmax(axis=1), minlength=scores.shape[1]) / len(scores)
