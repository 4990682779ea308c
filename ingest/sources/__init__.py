"""Where jobs come from: one module a kind of source, all behind the Protocols of `base`.

A source finds jobs and hands them over; it never sends, fingerprints or journals anything.
"""
