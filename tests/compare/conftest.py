"""`tests/prediction_tables.py`, for every test here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
