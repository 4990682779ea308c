"""The Partner API: messages (wire to model), transport (HTTP) and client (one typed method an endpoint).

May talk HTTP; may not retry, pace, journal or print.
"""
