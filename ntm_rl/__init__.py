"""Neural Turing Machine policies for Stable-Baselines3 and Gymnasium.

`import ntm_rl` registers the package's Gymnasium ids; the public names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ntm_rl.interrupts import end_child_on_interrupt, exit_on_interrupt, is_command_line

if TYPE_CHECKING:
    from ntm_rl.agents import CnnNtmPolicy, MemoryPPO, MlpNtmPolicy, MultiInputNtmPolicy
    from ntm_rl.cores.base import MemoryCore
    from ntm_rl.cores.dnc import Dnc
    from ntm_rl.cores.feedforward import Feedforward, FrameStack
    from ntm_rl.cores.gated_delta import GatedDelta
    from ntm_rl.cores.gtrxl import Gtrxl
    from ntm_rl.cores.layout import StateLayout
    from ntm_rl.cores.mann import Mann
    from ntm_rl.cores.matching import matched_options
    from ntm_rl.cores.ntm import Ntm
    from ntm_rl.cores.ntm_block import NtmBlock
    from ntm_rl.cores.recurrent import Elman, Gru, Lstm
    from ntm_rl.cores.registry import core_names, make_core, register_core
    from ntm_rl.cores.sam import Sam
    from ntm_rl.errors import InputError

_MODULES = {
    "CnnNtmPolicy": "ntm_rl.agents",
    "MemoryPPO": "ntm_rl.agents",
    "MlpNtmPolicy": "ntm_rl.agents",
    "MultiInputNtmPolicy": "ntm_rl.agents",
    "MemoryCore": "ntm_rl.cores.base",
    "StateLayout": "ntm_rl.cores.layout",
    "core_names": "ntm_rl.cores.registry",
    "make_core": "ntm_rl.cores.registry",
    "register_core": "ntm_rl.cores.registry",
    "Dnc": "ntm_rl.cores.dnc",
    "InputError": "ntm_rl.errors",
    "Feedforward": "ntm_rl.cores.feedforward",
    "FrameStack": "ntm_rl.cores.feedforward",
    "GatedDelta": "ntm_rl.cores.gated_delta",
    "matched_options": "ntm_rl.cores.matching",
    "Mann": "ntm_rl.cores.mann",
    "Ntm": "ntm_rl.cores.ntm",
    "NtmBlock": "ntm_rl.cores.ntm_block",
    "Elman": "ntm_rl.cores.recurrent",
    "Gru": "ntm_rl.cores.recurrent",
    "Lstm": "ntm_rl.cores.recurrent",
    "Gtrxl": "ntm_rl.cores.gtrxl",
    "Sam": "ntm_rl.cores.sam",
}

__all__ = [
    "CnnNtmPolicy",
    "Dnc",
    "Elman",
    "Feedforward",
    "FrameStack",
    "GatedDelta",
    "Gru",
    "Gtrxl",
    "InputError",
    "Lstm",
    "Mann",
    "MemoryCore",
    "MemoryPPO",
    "MlpNtmPolicy",
    "MultiInputNtmPolicy",
    "Ntm",
    "NtmBlock",
    "Sam",
    "StateLayout",
    "core_names",
    "make_core",
    "matched_options",
    "register_core",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ntm_rl' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


def _register_environments() -> None:
    from ntm_rl.envs.registration import register_environments

    register_environments()


if is_command_line():  # `main` restores the handler
    exit_on_interrupt()
end_child_on_interrupt()
_register_environments()
