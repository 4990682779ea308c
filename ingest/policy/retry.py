"""When to try again: the delay before an attempt.

What may be tried again at all is said by the error tree; whose attempts are counted, by the pipeline.
"""

from __future__ import annotations

__all__ = ["backoff_s"]


def backoff_s(failures: int, *, base_s: float, cap_s: float, jitter: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row (from 1), with full jitter.

        delay = jitter * min(cap, base * 2^(failures - 1)),    jitter uniform in [0, 1)

    Full jitter spreads the retries of many jobs that failed at once over the whole span, which costs the server least
    (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    # Beyond 2^32 the cap has long decided; a bounded exponent keeps the float finite for any count.
    return jitter * min(cap_s, base_s * 2.0 ** min(failures - 1, 32))
