"""
Distributions in which some choices are forbidden.

π(a|s) is a softmax over the allowed logits alone: a forbidden choice has probability 0, log-probability −∞ for all that
matters, and no part in divergence, entropy, metric or gradient. A logit of −10⁸ gives all of this exactly, since its
exponential is 0, and everything stays finite: whatever is multiplied by a probability of 0 is a number.
"""

from typing import TypeVar

from torch import Tensor

from sb3_trpo_ext.kernels.families import Family

FORBIDDEN = -1e8  # logit
FamilyT = TypeVar("FamilyT", bound=Family)


def masked(family: FamilyT, masks: Tensor) -> FamilyT:
    """
    The same distributions without what is forbidden, with their graph. At least one option of each choice has to be
    allowed.

    :param family: of logits, shape (n, k)
    :param masks: what is allowed, boolean: shape (n, k), or (n, 2k) for k coins, of which each has two columns, first
        whether it may be 0, then whether it may be 1
    """
    (logits,) = family.statistics
    if masks.shape[1] == logits.shape[1]:
        return family.with_statistics([logits.masked_fill(~masks, FORBIDDEN)])
    may_be_0, may_be_1 = masks[:, 0::2], masks[:, 1::2]
    return family.with_statistics([logits.masked_fill(~may_be_1, FORBIDDEN).masked_fill(~may_be_0, -FORBIDDEN)])
