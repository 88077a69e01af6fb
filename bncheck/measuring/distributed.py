"""Several processes (torchrun): what they exchange, what they must agree on, how they end.

Numbers and text are exchanged, never pickles. Every failure of a rank reaches all others: an error
in the exchange that they come to next, anything else as the last word of a process that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from bncheck._version import __version__
from bncheck.core import usercode
from bncheck.core.errors import BncheckError, TerminatedError
from bncheck.measuring.messages import (
    Contribution,
    Counts,
    LostRankError,
    Parts,
    SharedError,
    agreement,
    contribution_in,
    failure,
    head_of,
    in_step,
    packed,
    refuse_difference,
)
from bncheck.measuring.place import Place

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from bncheck.measuring.wire import Wire

T = TypeVar("T")


@dataclass
class Processes:
    """This process's place among those that measure together; alone, it exchanges with itself.

    `own_data` tells that the ranks were found to read different batches, each its own; `uneven`
    that they read the same ones, but not equally many. `notes` is what else users should know about
    how the work was shared.
    """

    rank: int = 0
    size: int = 1
    wire: Wire | None = field(default=None, repr=False)
    own_data: bool = False
    uneven: bool = False
    notes: dict[str, None] = field(default_factory=dict)

    def exchange(self, step: str, mine: Contribution) -> list[Contribution]:
        """Every rank's contribution to this step, in the order of ranks.

        Raises SharedError where a rank has failed, or is at another step; LostRankError.
        """
        if self.wire is None:
            return [mine]
        messages = self.wire.gather(packed(step, mine))
        return [contribution_in(message) for message in in_step(messages)]

    def told(self, step: str, mine: bytes) -> list[bytes]:
        """Every rank's bytes, in the order of ranks."""
        import numpy as np

        array = np.frombuffer(mine, np.uint8)
        return [c.parts[""].tobytes() for c in self.exchange(step, Contribution({"": array}))]

    def summed(self, mine: Counts | None) -> Counts | None:
        """The sum of all ranks' counts; None where no rank has any."""
        given = Contribution({} if mine is None else {"": mine})
        arrays = [c.parts[""] for c in self.exchange("counts", given) if c.parts]
        return sum(arrays[1:], arrays[0]) if arrays else None

    def dealt(self, step: str, items: Sequence[T], work: Callable[[T], Parts]) -> list[Parts]:
        """What `work` makes of each item, in the order of the items; ranks take them in turn.

        All ranks have the same items. Where they read different data, each works on all of them.
        What `work` gives must not depend on earlier items: another rank may have had those.
        """
        if self.wire is None or self.own_data or self.uneven:
            return [work(item) for item in items]
        mine = {
            f"{place} {name}": array
            for place in range(self.rank, len(items), self.size)
            for name, array in work(items[place]).items()
        }
        found: list[dict[str, Counts]] = [{} for _ in items]
        for other in self.exchange(f"{step}, {len(items)} of them", Contribution(mine)):
            for key, array in other.parts.items():
                place, _, name = key.partition(" ")
                found[int(place)][name] = array
        return [*found]

    def agree(self, facts: Mapping[str, str]) -> None:
        """Raise SharedError where a rank has other facts than rank 0."""
        if self.wire is None:
            return
        messages = in_step(self.wire.gather(agreement(facts)))
        said = [head_of(message)["facts"] for message in messages]
        for rank, other in enumerate(said):
            refuse_difference(rank, other, said[0])

    def agree_on_report(self, report: Callable[[], Mapping[str, object]]) -> None:
        """Raise SharedError where another rank came to another report, all of it plain data.

        It is made where there is another rank.
        """
        if self.wire is not None:
            import hashlib

            text = json.dumps(report(), sort_keys=True, default=str)
            self.agree({"what the files hold": hashlib.sha256(text.encode()).hexdigest()})

    def device(self, name: str) -> str:
        """`cuda` is another GPU for every rank on a machine, in turn."""
        if self.wire is None or name != "cuda":
            return name
        import torch

        local, gpus = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        return f"cuda:{local % gpus}" if gpus else name

    @contextlib.contextmanager
    def together(self, step: str) -> Iterator[None]:
        """What is done in here is done by all ranks or fails in all.

        A BncheckError of this rank is told in the exchange to which the others come next, so they
        raise it, too; and no rank leaves before all have done their part.
        """
        try:
            yield
        except (SharedError, LostRankError):
            raise
        except BncheckError as error:
            if self.wire is None:
                raise
            with contextlib.suppress(BncheckError):
                self.wire.gather(failure(error))
            raise SharedError(*error.args) from error
        self.exchange(f"the end of {step}", Contribution({}))


@contextlib.contextmanager
def launched_processes(
    timeout: float, facts: Mapping[str, str] | None = None
) -> Iterator[Processes]:
    """The processes that torchrun started, joined; a single one without torchrun.

    A rank waits for another for `timeout` seconds. `facts` must be the same in all of them, as must
    be the versions of bncheck and torch. Whatever ends this process before the others have come to
    the end is told to them.
    """
    place = Place.from_environment()
    if place is None:
        yield Processes()
        return
    from bncheck.measuring.meeting import connect, store_for

    # torch would tell of a lost connection in a page of C++ frames, beside the line that says it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    store = store_for(place, timeout)
    wire = connect(place, store, timeout)
    processes = Processes(place.rank, place.size, wire)
    try:
        with _group(processes, store, timeout, facts or {}), processes.together("the run"):
            yield processes
    except LostRankError:  # of which all are told
        raise
    except BaseException as error:
        if isinstance(error, TerminatedError) and (cause := _failed_before(error, wire)):
            raise cause from error  # launchers end all when one has failed
        wire.fail(f"rank {place.rank} {_ended_by(error)}")
        raise
    finally:
        wire.close()


@contextlib.contextmanager
def _group(
    processes: Processes, store: Store, timeout: float, facts: Mapping[str, str]
) -> Iterator[None]:
    """torch's default group, once all agree: a DistributedSampler asks it for its rank."""
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    from bncheck.measuring.meeting import first_line

    versions = {"the version of bncheck": __version__, "the version of torch": torch.__version__}
    processes.agree({**versions, **facts})
    try:
        dist.init_process_group(
            "gloo", store=PrefixStore("group", store), rank=processes.rank,
            world_size=processes.size, timeout=timedelta(seconds=timeout),
        )  # fmt: skip
    except RuntimeError as error:
        raise BncheckError(
            f"rank {processes.rank} cannot reach the other ranks ({first_line(error)})",
            "GLOO_SOCKET_IFNAME names the network interface to use",
        ) from error
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _failed_before(error: TerminatedError, wire: Wire) -> BncheckError | None:
    """What was being told when the signal came, or is there to be heard."""
    told = error.__context__
    return told if isinstance(told, (SharedError, LostRankError)) else wire.lost()


def _ended_by(error: BaseException) -> str:
    if isinstance(error, (KeyboardInterrupt, TerminatedError)):
        return "was interrupted" if isinstance(error, KeyboardInterrupt) else "was terminated"
    said = error.sentence if isinstance(error, BncheckError) else usercode.described(error)
    return f"failed ({said})"
