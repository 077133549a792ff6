"""The sample result of `tests/test_results.py`, for the views, and the samples of many models beside this file."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
