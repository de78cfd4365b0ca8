"""The memory access of a core in one step, for inspection."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Head:
    """A head in one step.

    Attributes:
        weighting: `[B, N]`.
        parameters: Numbers `[B]` and vectors `[B, P]` by name, such as "gate" or "shift".
        add: The vector that the weighting adds to the slots, `[B, M]`; None for a read head.
    """

    weighting: Tensor
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    add: Tensor | None = None

    @property
    def writes(self) -> bool:
        """Whether it is a write head."""
        return self.add is not None


@dataclass(frozen=True)
class MemoryAccess:
    """The access to a memory in one step.

    The memory after the step is the memory before it times `kept`, plus each write head's weighting times its `add`.

    Attributes:
        heads: Heads by name, such as "read 1".
        kept: Share of the contents that was not erased, `[B, N, M]`; None if the core does not report it.
        slots: Further numbers of each slot `[B, N]` by name, such as "usage".
        links: `[B, N, N]`, `links[i, j]` is the degree to which slot i was written right after slot j; None without.
    """

    heads: Mapping[str, Head] = field(default_factory=dict)
    kept: Tensor | None = None
    slots: Mapping[str, Tensor] = field(default_factory=dict)
    links: Tensor | None = None
