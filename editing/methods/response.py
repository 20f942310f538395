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

Array = np.ndarray

#: Mean of the prior of the mean gain: times the identity, as UCE's edits of the bundled model are
#: found to answer, give or take two.
_GAIN = 4.0
#: Precisions of the mean gain, of each concept's about it, and of biases.
_GAIN_PRECISION, _OWN_PRECISION, _BIAS_PRECISION = 0.25, 0.5, 0.1
#: What an image of the round before is worth.
_FADING = 0.7
#: How much of the doubt counts, for a step also teaches; and how far a weight moves at most.
_CAUTION, _FURTHEST = 0.15, 0.3


@dataclass(frozen=True, eq=False)
class Response:
    """How shares answer to weights.

    Attributes:
        bias: Logits without weights, (concepts, k).
        gain: Logits per weight, (concepts, k, k).
        doubt: What a move of the weights by v adds to the expected squared error of the logits,
            for the gain is not known: v' D v, (concepts, k, k).
    """

    bias: Array
    gain: Array
    doubt: Array

    def towards(self, concept: int, weights: Array, goal: Array, step: float = 1.0) -> Array:
        """Returns weights that should bring a concept nearer to its shares.

        They make the expected squared error of the logits as small as can be, some of the doubt
        included: where little is known yet, steps are small (cautious control; Åström and
        Wittenmark, "Adaptive Control", 1995, chapter 7).

        Args:
            concept: Which row.
            weights: As they are, (k,).
            goal: Wanted shares, (k,), each above 0.
            step: Share of the way, > 0.
        """
        k = len(goal)
        # Softmax does not see what all logits have in common.
        centre = np.eye(k) - 1 / k
        gain = centre @ self.gain[concept]
        missing = centre @ (np.log(goal) - self.bias[concept]) - gain @ weights
        way = np.linalg.solve(gain.T @ gain + _CAUTION * self.doubt[concept], gain.T @ missing)
        furthest = float(np.abs(way).max())
        return weights + step * way * min(1.0, _FURTHEST / max(furthest, 1e-12))


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
    # Each row of a gain has about this posterior covariance: Fisher information at equal shares.
    known = totals[:, :, None] * (1 - 1 / k) / k * weights[:, :, None] * weights[:, None, :]
    doubt = np.linalg.inv(_GAIN_PRECISION * np.eye(k) + known.sum(axis=0)) + np.linalg.inv(
        _OWN_PRECISION * np.eye(k) + np.einsum("cn,nij->cij", member, known)
    )
    return Response(bias, mean + own, k * doubt)
