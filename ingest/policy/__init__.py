"""Pure decisions: what state follows, whether to try again, when to send.

No await, no I/O, no clock, no randomness, no logger: time and jitter are arguments, and what comes back is a decision
that somebody else carries out.
"""
