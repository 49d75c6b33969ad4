"""What steers entropy: an adaptive bonus, and the tokens that make it fall. N: trained tokens."""

from torch import Tensor


def adaptive_coefficient(coefficient: float, entropy: float, target: float, delta: float) -> tuple[float, bool]:
    """Return the bonus's next coefficient, and whether it is in force (Skywork-OR1, arXiv 2505.22312).

    It grows by `delta` while the entropy (nats a token) is at or below the target, and then is in force; otherwise it
    shrinks by `delta`, though never below 0, where a bonus would turn into a penalty.
    """
    low = entropy <= target
    return max(coefficient + (delta if low else -delta), 0.0), low


def covariance(advantages_N: Tensor, logprobs_N: Tensor) -> Tensor:
    """Return (A - mean A) (logp - mean logp) for each token (arXiv 2505.22617): the largest ones collapse entropy."""
    return (advantages_N - advantages_N.mean()) * (logprobs_N - logprobs_N.mean())
