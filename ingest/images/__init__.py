"""What the bytes are: detection by content, size limits, fingerprints.

May open local files; never talks to a network and never writes a file.
"""
