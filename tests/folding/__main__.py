"""`python -m tests.folding [NUMBER]`: so many random graphs (5000), instead of CI's few hundred."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["BNCHECK_EXAMPLES"] = sys.argv[1] if len(sys.argv) > 1 else "5000"
sys.exit(pytest.main(["-q", str(Path(__file__).with_name("test_random_graphs.py"))]))
