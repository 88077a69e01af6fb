"""Which trials no constant may be chosen on: half of the first ones, and all of `fresh`.

Split by a hash of their names before the rules that they judge were changed.
"""

from __future__ import annotations

import hashlib

from tests.recording.trials.fresh import fresh_faulty, fresh_sound


def set_aside(name: str) -> bool:
    """Whether a trial is one that only a finished rule is tried on."""
    if name in fresh_sound() or name in fresh_faulty():
        return True
    return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 1
