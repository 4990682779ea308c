"""The model server of the pipeline's tests is the server here, too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "unit" / "pipeline"))
