"""`python -m tests.zoo FOLDER` builds every layout there, for readers without torch."""

import sys
from pathlib import Path

from tests.zoo.menagerie import keep

keep(Path(sys.argv[1]).absolute())
