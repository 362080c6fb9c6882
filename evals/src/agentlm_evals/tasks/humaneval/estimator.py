"""pass@k of HumanEval's paper (arXiv 2107.03374, eq. 1), unbiased. Refuses to know programs."""

from agentlm_evals.errors import ConfigError


def pass_at_k(count: int, correct: int, k: int) -> float:
    """The chance that among `k` programs drawn from `count`, of which `correct` are right, one is: 1 - C(n-c, k) / C(n, k).

    Raises:
        ConfigError: Fewer than `k` were made.
    """
    if not 1 <= k <= count:
        raise ConfigError(f"pass@{k} needs {k} programs of each problem or more; there are {count}")
    if not 0 <= correct <= count:
        raise ConfigError(f"{correct} of {count} programs cannot be right")
    missed = 1.0
    # As a product, which neither overflows nor loses digits as the binomials would.
    for others in range(count - correct + 1, count + 1):
        missed *= max(0.0, 1.0 - k / others)
    return 1.0 - missed
