"""The sample result of `tests/test_results.py`, for the views."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
