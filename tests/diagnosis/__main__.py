"""Plant every fault in every network and print what the diagnosis makes of it.

    python -m tests.diagnosis [NETWORKS] [--only WORDS] [--no-labels] [--quiet]

`tuned`, `held-out` and `fresh` stand for those that the thresholds were chosen on, those that were
set aside, and those that were set aside later. Trained weights are kept in $BNCHECK_TRAINED
(/tmp/bncheck-trained).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import torch

from tests import planted
from tests.diagnosis.faults import Truth
from tests.diagnosis.judging import Outcome, Written, judged, states
from tests.diagnosis.training import FRESH, HELD_OUT, TUNED, Network


def chosen(words: Sequence[str]) -> list[Network]:
    """Networks by name; real ones only where their files are."""
    groups = {"tuned": TUNED, "held-out": HELD_OUT, "fresh": FRESH}
    known = {network.name: network for network in (*TUNED, *HELD_OUT, *FRESH)}
    found: list[Network] = []
    for word in words or ["tuned", "held-out"]:
        found += groups[word] if word in groups else [known[word]]
    return [n for n in found if not n.real or planted.real_folder() is not None]


def line(outcome: Outcome) -> str:
    """One state on one line; what is wrong stands in front."""
    state = outcome.state
    sick = state.truth is not Truth.SOUND
    flags = [
        "ALARM" if not sick and outcome.detected else "",
        "NAME" if sick and not outcome.acceptable else "",
        "WAY" if outcome.wrong_way else "",
        "HARM" if outcome.written is Written.HARMFUL else "",
        "LAYER" if sick and outcome.detected and not outcome.layer_right else "",
    ]
    before, sound, after = outcome.accuracy
    w2 = "-" if outcome.w2 is None else f"{outcome.w2:.3f}"
    return (
        f"{' '.join(filter(None, flags)):11} {outcome.network:13} {state.name:24} "
        f"{outcome.code or '-':6} {outcome.layer or '':18} W2 {w2:>9} {outcome.advice:11} "
        f"{outcome.written:8} {before:.3f} of {sound:.3f} -> {after:.3f}"
    )


def matrix(outcomes: Sequence[Outcome]) -> str:
    """Truth by the code found."""
    counts = Counter((o.state.name, o.code or "-") for o in outcomes)
    names = list(dict.fromkeys(o.state.name for o in outcomes))
    return "\n".join(
        f"{name:24} " + ", ".join(
            f"{code} {number}" for (truth, code), number in counts.most_common() if truth == name
        )
        for name in names
    )  # fmt: skip


def summary(outcomes: Sequence[Outcome]) -> str:
    """The figures that the diagnosis is judged by."""
    well = [o for o in outcomes if o.state.truth is Truth.SOUND]
    sick = [o for o in outcomes if o.state.truth is not Truth.SOUND]
    found = [o for o in sick if o.detected]
    placed = [o for o in found if o.state.layers]
    mendable = [o for o in found if o.state.truth is Truth.STATISTICS]
    rows = (
        ("detected", found, sick),
        ("right name, or none and the layer", [o for o in sick if o.acceptable], sick),
        ("right name", [o for o in sick if o.named], sick),
        ("layer right", [o for o in placed if o.layer_right], placed),
        ("wrong-way advice", [o for o in sick if o.wrong_way], sick),
        ("alarms on sound states", [o for o in well if o.detected], well),
        ("harmful writes", [o for o in outcomes if o.written is Written.HARMFUL], outcomes),
        ("restored", [o for o in mendable if o.written is Written.RESTORED], mendable),
    )
    return "\n".join(
        f"{words:36} {len(some):4} of {len(every):4}  {len(some) / max(len(every), 1):.0%}"
        for words, some, every in rows
    )


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.diagnosis", description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--no-labels", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="only states that went wrong")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for network in chosen(options.networks):
        for state in states(network, options.only):
            outcome = judged(network, state, not options.no_labels)
            outcomes.append(outcome)
            text = line(outcome)
            if not options.quiet or text[:11].strip():
                print(text, flush=True)  # noqa: T201
    print(f"\n{matrix(outcomes)}\n\n{summary(outcomes)}")  # noqa: T201


if __name__ == "__main__":
    main()
