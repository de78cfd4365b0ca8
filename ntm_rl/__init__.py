"""Neural Turing Machine policies for Stable-Baselines3 and Gymnasium.

`import ntm_rl` registers the package's Gymnasium ids and loads nothing heavy; the public names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntm_rl.agents import CnnNtmPolicy, MemoryPPO, MlpNtmPolicy, MultiInputNtmPolicy
    from ntm_rl.core import MemoryCore, core_names, make_core, register_core
    from ntm_rl.dnc import Dnc
    from ntm_rl.errors import InputError
    from ntm_rl.feedforward import Feedforward, FrameStack
    from ntm_rl.gated_delta import GatedDelta
    from ntm_rl.mann import Mann
    from ntm_rl.matching import matched_options
    from ntm_rl.ntm import Ntm
    from ntm_rl.recurrent import Elman, Gru, Lstm
    from ntm_rl.sparse import Sam
    from ntm_rl.transformer import Gtrxl

_HOME = {
    "CnnNtmPolicy": "ntm_rl.agents",
    "MemoryPPO": "ntm_rl.agents",
    "MlpNtmPolicy": "ntm_rl.agents",
    "MultiInputNtmPolicy": "ntm_rl.agents",
    "MemoryCore": "ntm_rl.core",
    "core_names": "ntm_rl.core",
    "make_core": "ntm_rl.core",
    "register_core": "ntm_rl.core",
    "Dnc": "ntm_rl.dnc",
    "InputError": "ntm_rl.errors",
    "Feedforward": "ntm_rl.feedforward",
    "FrameStack": "ntm_rl.feedforward",
    "GatedDelta": "ntm_rl.gated_delta",
    "matched_options": "ntm_rl.matching",
    "Mann": "ntm_rl.mann",
    "Ntm": "ntm_rl.ntm",
    "Elman": "ntm_rl.recurrent",
    "Gru": "ntm_rl.recurrent",
    "Lstm": "ntm_rl.recurrent",
    "Gtrxl": "ntm_rl.transformer",
    "Sam": "ntm_rl.sparse",
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
    "Sam",
    "core_names",
    "make_core",
    "matched_options",
    "register_core",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ntm_rl' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def _register_environments() -> None:
    from ntm_rl.envs.registration import register_environments

    register_environments()


_register_environments()
