"""A plain walk over a directory, to measure beside: scandir and a stat of each entry, and nothing else."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    print(sum(entry.stat().st_size >= 0 for entry in os.scandir(sys.argv[1])))
