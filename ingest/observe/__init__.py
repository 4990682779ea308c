"""What the program tells about itself: log lines, metrics, and the HTTP pages that show them.

This layer may be called from every part above it and asks nothing of them: what it shows it gets as plain values or
as callables that it reads when someone looks. It may not decide anything about a job, keep state that the program
depends on, block the event loop, or change process-wide state (root logger, default metrics registry) unasked. No
secret leaves through it.
"""
