"""`python -m bncheck`.

Python puts the folder that one stands in first on the path, where a torch.py or json.py beside a
stranger's checkpoint would be imported in the place of the real one. It goes, unless bncheck itself
is imported from there; `--model` puts it back for what it names.
"""

import os
import sys

_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if (
    sys.path
    and not getattr(sys.flags, "safe_path", False)
    and os.path.realpath(sys.path[0] or ".") != os.path.realpath(_FOLDER)
):
    del sys.path[0]

from bncheck.cli import main  # noqa: E402

main()
