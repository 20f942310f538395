r"""What the weights of a debiased concept do to its images: a response, learned from all of them.

A weight is asked for one attribute and moves others too: "dark skin" draws as many people of a
medium-dark one, and "medium skin" fewer of itself. A controller that raises the weight of whatever
is rare turns in circles. So the answer is identified: a concept c with weights w shows attribute k
with the probability

    softmax(b_c + G_c w)_k

where the bias b_c is the concept's, and its gain G_c, (k, k), lies about a mean that is shared by
all concepts with the same attributes, so that images of each tell something about the others. All
are the posterior mode given every image that was counted, recent rounds before older ones (the true
answer is not quite linear in logits, and what counts is how it is here; that old images fade also
removes a constant error). The prior is normal throughout: biases about nothing, a concept's gain
about the mean, the mean about a multiple of the identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

Array = np.ndarray

#: Mean of the prior of the mean gain: times the identity, as UCE's edits of the bundled model are
#: found to answer, give or take three.
_GAIN = 4.0
#: Precisions of the mean gain, of each concept's about it, and of biases.
_GAIN_PRECISION, _OWN_PRECISION, _BIAS_PRECISION = 0.1, 0.3, 0.1
#: What an image of the round before is worth.
_FADING = 0.9
#: What half a squared weight costs beside the distance of shares, and how far a weight moves at
#: most: what hardly answers must not be paid for with weights that make another image.
_WEIGHT_COST, _FURTHEST = 0.03, 0.4


@dataclass(frozen=True, eq=False)
class Response:
    """How shares answer to weights.

    Attributes:
        bias: Logits without weights, (concepts, k).
        gain: Logits per weight, (concepts, k, k).
    """

    bias: Array
    gain: Array

    def towards(self, concept: int, weights: Array, goal: Array, step: float = 1.0) -> Array:
        """Returns weights that should bring a concept nearer to its shares.

        They make Σ goal log(goal / share) as small as can be, a little paid for large weights,
        within a box about the weights as they are: the response is known there. This distance is
        convex in the weights and, unlike that of logits, does not let the rarest attribute have its
        way whatever it costs the others where a goal cannot be reached.

        Args:
            concept: Which row.
            weights: As they are, (k,).
            goal: Wanted shares, (k,), each above 0.
            step: Share of the way, > 0.
        """
        gain = self.gain[concept]

        def loss(way: Array) -> tuple[float, Array]:
            new = weights + way
            shares = log_softmax(self.bias[concept] + gain @ new)
            value = -goal @ shares + _WEIGHT_COST / 2 * new @ new
            return float(value), gain.T @ (np.exp(shares) - goal) + _WEIGHT_COST * new

        box = [(-_FURTHEST, _FURTHEST)] * len(goal)
        way = minimize(loss, np.zeros(len(goal)), jac=True, method="L-BFGS-B", bounds=box).x
        return weights + step * way


def identified(
    concepts: Sequence[int], weights: Array, counts: Array, ages: Sequence[int]
) -> Response:
    """Learns the response from everything that was seen.

    Args:
        concepts: Of each look, from 0 up, n of them.
        weights: In each look, (n, k).
        counts: Images that showed each attribute, (n, k).
        ages: Rounds since each look, 0 for the last.

    Returns:
        The posterior mode.
    """
    index = np.asarray(concepts)
    k = counts.shape[1]
    seen = counts * _FADING ** np.asarray(ages, float)[:, None]
    totals = seen.sum(axis=1, keepdims=True)
    among = int(index.max()) + 1
    member = (index == np.arange(among)[:, None]).astype(float)
    prior = _GAIN * np.eye(k)
    ends = np.cumsum([among * k, k * k])

    def parts(flat: Array) -> tuple[Array, Array, Array]:
        bias, mean, own = np.split(flat, ends)
        return bias.reshape(among, k), mean.reshape(k, k), own.reshape(among, k, k)

    def loss(flat: Array) -> tuple[float, Array]:
        bias, mean, own = parts(flat)
        logits = bias[index] + np.einsum("nij,nj->ni", mean + own[index], weights)
        logits -= logits.max(axis=1, keepdims=True)
        log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        value = (
            -float((seen * log_shares).sum())
            + _BIAS_PRECISION / 2 * float((bias**2).sum())
            + _GAIN_PRECISION / 2 * float(((mean - prior) ** 2).sum())
            + _OWN_PRECISION / 2 * float((own**2).sum())
        )
        off = totals * np.exp(log_shares) - seen
        each = np.einsum("cn,ni,nj->cij", member, off, weights)
        slopes = (
            member @ off + _BIAS_PRECISION * bias,
            each.sum(axis=0) + _GAIN_PRECISION * (mean - prior),
            each + _OWN_PRECISION * own,
        )
        return value, np.concatenate([slope.ravel() for slope in slopes])

    start = np.concatenate([np.zeros(among * k), prior.ravel(), np.zeros(among * k * k)])
    bias, mean, own = parts(minimize(loss, start, jac=True, method="L-BFGS-B").x)
    return Response(bias, mean + own)
