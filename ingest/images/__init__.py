"""What the bytes are: detection by content, size limits, fingerprints; and getting them, where a URL names them.

May open local files and write temporary ones; only `fetch` talks to a network, and only to hosts that are nobody's own.
"""
