"""The builders of prediction tables and of synthetic run folders, which lie a folder higher."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
