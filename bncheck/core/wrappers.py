"""Names of layers, recognised whatever wraps the model: the one place that knows the wrappers.

DataParallel, torch.compile, FSDP and averages keep a model in an attribute, whose name then stands
in those of all its tensors: `bn1` is `module.bn1`, `_orig_mod.bn1` or `ema_model.module.bn1`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bncheck.core.matching import matches

#: What torch.compile, FSDP and activation checkpointing insert: nobody calls a module so.
INSERTED: Final = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
#: What wraps a whole model and says nothing of it: DataParallel, AveragedModel, DeepSpeed, Fabric.
AROUND: Final = INSERTED | {"module", "_forward_module"}
#: And where Lightning modules and averages keep theirs; each may be a module of the user's own.
WRAPPERS: Final = AROUND | {
    *("model", "online_model"),
    *("ema", "ema_model", "model_ema", "averaged_model", "swa_model"),
}
_WILD: Final = frozenset("*?[")


def without(name: str, words: frozenset[str] = WRAPPERS) -> str:
    """The name less these words, wherever they stand; a name of nothing else stays as it is."""
    return ".".join(part for part in name.split(".") if part not in words) or name


@dataclass(frozen=True)
class LayerNames:
    """The names of one network.

    Two that only wrappers tell apart, such as a model and its average in one file, are told apart:
    each then goes by its whole name alone.
    """

    names: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str | None]) -> LayerNames:
        """Those of layers; None is a finding about none."""
        return cls(frozenset(name for name in names if name is not None))

    @cached_property
    def bare(self) -> Mapping[str, str]:
        """What each name is without wrappers, where no other name is the same without."""
        found = {name: without(name) for name in self.names}
        times = Counter(found.values())
        return {name: bare for name, bare in found.items() if times[bare] == 1}

    @cached_property
    def _telling(self) -> frozenset[str]:
        """Wrappers' words that tell layers apart, for some names have them and others not."""
        words = [frozenset(name.split(".")) & WRAPPERS for name in self.names]
        return frozenset().union(*words) - frozenset(WRAPPERS).intersection(*words) - INSERTED

    def match(self, name: str, pattern: str) -> bool:
        """Whether a pattern of the user's means this layer, as it stands or whatever wraps it."""
        if matches(name, pattern):
            return True
        bare = self.bare.get(name)
        return bare is not None and any(matches(bare, form) for form in self._forms(pattern))

    def _forms(self, pattern: str) -> Iterator[str]:
        """The pattern, and without its wrappers, if none of these tells layers apart here.

        `module.*` would then be every layer: what remains has to begin with a name.
        """
        yield pattern
        words = frozenset(pattern.split(".")) & WRAPPERS
        first = without(pattern).partition(".")[0]
        if words and not words & self._telling and not _WILD & set(first):
            yield without(pattern)

    def counterparts(self, others: LayerNames) -> dict[str, str]:
        """Of each name the other network's for the same layer, where there is one."""
        theirs = {bare: name for name, bare in others.bare.items()}
        found = {name: theirs[bare] for name, bare in self.bare.items() if bare in theirs}
        return found | {name: name for name in self.names & others.names}
