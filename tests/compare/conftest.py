"""The builder of synthetic run folders, `tests/run_folders.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
