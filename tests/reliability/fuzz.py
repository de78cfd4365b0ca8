"""Hostile files for everything that loads: agents, networks and the checkpoints of both kinds of training.

    python tests/reliability/fuzz.py --inputs 1000000 [--seed 0]

Each input is a mutated file: bytes (truncated, flipped, overwritten, spliced), the header (huge shapes, wrong types,
overlapping offsets, names that climb out of a folder, deep and long JSON), or the content under a right checksum
(values of the document replaced, tensors renamed, cut, retyped, filled with NaN, or another kind of file). Loading it
must end in one `InputError` that names the file, or in something that can be used, within a few seconds of CPU time and
without memory in proportion to what the file claims. An audit hook watches that nothing is executed, imported,
connected to or written meanwhile.
"""

import argparse
import copy
import json
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from ntm_rl.agents.policy.files import load_agent, save_agent
from ntm_rl.agents.policy.network_files import load_network, save_network
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.ppo.checkpoints import load_checkpoint, save_checkpoint
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.speed.timing import peak_memory
from ntm_rl.agents.storage import tensors as storage
from ntm_rl.agents.storage.cards import WEIGHTS
from ntm_rl.agents.storage.tensors import read_tensors, write_tensors
from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

CPU_SECONDS = 10.0  # for one input, of which the slowest builds a policy
MEMORY = 300.0  # MiB that the process may grow by while it loads small files
ENVS = {"cards": "popgym-CountRecallEasy-v0", "copy": "ntm_rl/Copy-v0", "cartpole": "CartPole-v1"}  # of checkpoints
SHARES = {
    "bytes": 0.55,
    "header": 0.432,
    **dict.fromkeys(ENVS, 0.003),
    "supervised": 0.003,
    "agent": 0.003,
    "network": 0.003,
}
FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "pickle.find_class",
    "os.system",
    "subprocess.Popen",
    "os.posix_spawn",
    "os.fork",
)
FORBIDDEN += ("os.exec", "socket.connect", "ctypes.dlopen", "os.remove", "os.rename", "shutil.rmtree")
NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "policy.x",
    "",
    "\0",
    "optimizer.0.step",
    "environment.copies/time",
    "a" * 5000,
]
VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 3, 2**31, 2**40, 2**63, 2**70, 10**400, 0.5, 1e308, float("inf"), float("nan")),
    *("", "x", "0.1", "../../x", "ntm", "lstm", "Dict", "Box", "float64", "O", "U999999999", "__import__('os')"),
    *([], {}, [1], [[]], [1] * 1000, {"a": 1}, {"class": "Tanh"}, {"class": "os.system"}, {"array": "memory"}),
]


class FuzzError(Exception):
    """A file did what no file may."""


class Watch:
    """Turns what the interpreter reports of itself into an error, while it is armed."""

    def __init__(self) -> None:
        self.is_armed = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Notes forbidden events; loaders catch exceptions, so that raising here would not be enough."""
        if not self.is_armed:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in FORBIDDEN or writes:
            self.is_armed = False
            self.seen.append(f"{event} {arguments!r}"[:500])
            self.is_armed = True


class Fuzzer:
    """Mutates files and loads them.

    Args:
        folder: For the mutated files, best in memory.
        seed: Of the mutations.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng = folder, random.Random(seed)
        self.file = folder / WEIGHTS
        tensors = {"a.weight": torch.arange(6.0).view(2, 3), "flag": torch.tensor(True)}
        write_tensors(self.file, {**tensors, "half": torch.ones(3).bfloat16()}, {"kind": "test", "number": 1.5})
        self.small = self.file.read_bytes()
        settings = ["memory.ntm.slots=3", "memory.ntm.hidden_size=4", "task.copy.max_length=3", "batch_size=2"]
        self.trainer = SupervisedTrainer(load_settings("algorithmic/copy", settings))
        self.trainer.update()
        self.files: dict[str, bytes] = {}
        self.models = {name: _model(env_id) for name, env_id in ENVS.items()}
        for name, model in self.models.items():
            model.learn(16)
            self._keep(name, save_checkpoint(model, folder, extra={"best": 1.0}))
        self.trainer.save(folder)
        self._keep("supervised", next(folder.glob("step-*")))
        save_agent(self.models["cards"].policy, folder)
        self._keep("agent", self.file)
        save_network(self.trainer.averaged, folder, self.trainer.card())
        self._keep("network", self.file)
        (folder / "card.json").unlink()
        self.content: dict[str, Any] = {}
        for kind, whole in self.files.items():
            self.file.write_bytes(whole)
            self.content[kind] = read_tensors(self.file)
        self.load: dict[str, Callable[[], object]] = {
            "bytes": lambda: read_tensors(self.file),
            "header": lambda: read_tensors(self.file),
            **{name: partial(self._load_checkpoint, model) for name, model in self.models.items()},
            "supervised": lambda: self.trainer.load(self.file),
            "agent": lambda: load_agent(self.folder, "cpu"),
            "network": lambda: load_network(self.folder),
        }
        self.mutate: dict[str, Callable[[], bytes]] = {"bytes": self._bytes, "header": self._header}

    def _keep(self, kind: str, path: Path) -> None:
        self.files[kind] = path.read_bytes()
        path.unlink()

    def _load_checkpoint(self, model: MemoryPPO) -> None:
        load_checkpoint(self.file, model)
        env, seen, starts = model.get_env(), model._last_obs, model._last_episode_starts
        if seen is not None and env is not None:  # what was accepted must be playable
            with torch.no_grad():
                model.policy.step(torch.as_tensor(seen), model.memory_state, torch.as_tensor(starts))
            for _ in range(3):
                env.step(np.stack([model.action_space.sample() for _ in range(env.num_envs)]))

    def once(self, kind: str) -> str:
        """Loads one mutated file; returns what came of it."""
        content = self.mutate[kind]() if kind in self.mutate else self._signed(kind)
        self.file.write_bytes(content)
        return kind

    def _bytes(self) -> bytes:
        rng = self.rng
        content = bytearray(self.small if rng.random() < 0.98 else self.files[rng.choice(list(self.files))])
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            at = rng.randrange(len(content) + 1)
            match rng.randrange(5):
                case 0:
                    del content[at:]
                case 1 if at < len(content):
                    content[at] ^= 1 << rng.randrange(8)
                case 2:
                    content[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), struct.pack("<Q", rng.getrandbits(63))])
                case 3:
                    content[at:at] = rng.randbytes(rng.randrange(1, 20))
                case 4:
                    other = rng.randrange(len(content) + 1)
                    content[at : at + 16] = content[other : other + 16]
        return bytes(content)

    def _header(self) -> bytes:
        rng = self.rng
        sizes = [0, 1, 2, 4, 8, 1 << 31, 1 << 62, (1 << 64) - 1, -1, 1.5, "4", None]
        kinds = ["F32", "BF16", "BOOL", "I64", "U8", "F8_E4M3", "C64", "F4", "X", None, 7]
        entries: dict[str, Any] = {
            rng.choice([*NAMES, "w", "v"]): {
                "dtype": rng.choice(kinds[:4] if rng.random() < 0.7 else kinds),
                "shape": [rng.choice(sizes[:5] if rng.random() < 0.5 else sizes) for _ in range(rng.randrange(4))],
                "data_offsets": sorted(rng.choice(sizes[:8]) for _ in range(2)),  # type: ignore[type-var]
            }
            for _ in range(rng.randrange(4))
        }
        if rng.random() < 0.1:
            entries[rng.choice(NAMES)] = rng.choice(VALUES)
        if rng.random() < 0.8:
            document = rng.choice(
                ["{}", "[]", "[" * rng.choice([5, 10**4]), "9" * 5000, "NaN", "{", '{"kind": "agent"}']
            )
            entries["__metadata__"] = rng.choice(
                [{"document": document, "sha256": rng.choice(["", "0" * 64])}, VALUES[0]]
            )
        header = json.dumps(entries).encode()
        length = len(header) if rng.random() < 0.9 else rng.choice([0, 1 << 20, 1 << 40, 1 << 62, len(header) - 1])
        return struct.pack("<Q", length) + header + rng.randbytes(rng.choice([0, 4, 8, 32]))

    def _signed(self, kind: str) -> bytes:
        """Other content under a right checksum."""
        rng = self.rng
        tensors, document = dict(self.content[kind][0]), copy.deepcopy(self.content[kind][1])
        for _ in range(rng.choice([1, 1, 2])):
            if rng.random() < 0.5:
                _replace_value(document, rng)
            else:
                _replace_tensor(tensors, rng)
        if rng.random() < 0.05:
            document = copy.deepcopy(self.content[rng.choice(list(self.content))][1])
        text = json.dumps(document, sort_keys=True)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        return bytes(storage.to_safetensors(tensors, {"document": text, "sha256": storage._digest(tensors, text)}))


def _replace_value(document: Any, rng: random.Random) -> None:
    """Replaces, deletes or adds one value anywhere in a document."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        if rng.random() < 0.1:
            del place[key]
        elif isinstance(place, dict) and rng.random() < 0.1:
            place[rng.choice(NAMES)] = rng.choice(VALUES)
        else:
            place[key] = rng.choice(VALUES)
        return


def _replace_tensor(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    name = rng.choice(list(tensors))
    tensor = tensors[name].clone()
    match rng.randrange(6):
        case 0:
            del tensors[name]
        case 1:
            tensors[rng.choice(NAMES)] = tensors.pop(name)
        case 2:
            tensors[name] = tensor.flatten()[: rng.randrange(tensor.numel() + 1)]
        case 3:
            tensors[name] = tensor.to(rng.choice([torch.float64, torch.int8, torch.bfloat16, torch.bool]))
        case 4 if tensor.numel():
            numbers = [float("nan"), float("inf"), -1, 1e30] if tensor.is_floating_point() else [0, 1, 77, 127]
            tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice(numbers)
            tensors[name] = tensor
        case _:
            tensors[name] = torch.zeros(rng.choice([(), (0,), (1,), (2, 2), (1, 2, 3, 4)]), dtype=tensor.dtype)


def _model(env_id: str) -> MemoryPPO:
    core = {"core_kwargs": {"slots": 3, "width": 2, "hidden_size": 4}, "net_arch": {"pi": [4], "vf": [4]}}
    env = make_vec_env(EnvSettings(env_id), 2, 0)
    return MemoryPPO("MlpNtmPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, policy_kwargs=core)


def fuzz(inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Loads so many mutated files; returns the counts. Raises FuzzError at the first that does harm."""
    torch.set_num_threads(1)
    fuzzer, watch, counts = Fuzzer(folder, seed), Watch(), Counter[str]()
    kinds, weights = list(SHARES), list(SHARES.values())

    def hangs(number: int, frame: FrameType | None) -> None:
        raise FuzzError(f"more than {CPU_SECONDS} s of CPU time")  # caught like everything by loaders, so noted below

    signal.signal(signal.SIGVTALRM, hangs)
    slowest, before = 0.0, peak_memory()
    began = time.monotonic()
    for index in range(inputs):
        kind = kinds[index % len(kinds)] if index < 200 else fuzzer.rng.choices(kinds, weights)[0]
        fuzzer.once(kind)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        watch.is_armed = index >= 200  # by then all that loads late is loaded
        cpu = time.process_time()
        try:
            fuzzer.load[kind]()
            counts[f"{kind}: accepted"] += 1
        except InputError as error:
            if str(fuzzer.file) not in str(error):
                raise _kept(fuzzer, f"the error does not name the file: {error}") from error
            counts[f"{kind}: refused"] += 1
        except Exception as error:
            raise _kept(fuzzer, f"{kind}: {error!r}") from error
        finally:
            watch.is_armed = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        taken = time.process_time() - cpu
        slowest = max(slowest, taken)
        if watch.seen or taken > CPU_SECONDS:
            raise _kept(fuzzer, f"{kind}: {watch.seen or f'{taken:.1f} s of CPU time'}")
        if index == 2000:
            before = peak_memory()
    grown = peak_memory() - before
    if grown > MEMORY:
        raise FuzzError(f"the process grew by {grown:.0f} MiB")
    return {
        "inputs": inputs,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "crashes, hangs, events of the audit hook": 0,
        "slowest input, CPU seconds": round(slowest, 3),
        "growth of the process, MiB": round(grown, 1),
        "counts": dict(sorted(counts.items())),
    }


def _kept(fuzzer: Fuzzer, what: str) -> FuzzError:
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / WEIGHTS
    shutil.copyfile(fuzzer.file, path)
    return FuzzError(f"{what}; the file is kept as {path}")


def main() -> int:
    """Reads the command line, fuzzes, prints the counts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    memory = Path("/dev/shm")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="ntm-rl-fuzz-", dir=memory if memory.is_dir() else None) as folder:
        try:
            counts = fuzz(options.inputs, options.seed, Path(folder))
        except FuzzError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    print(json.dumps(counts, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
