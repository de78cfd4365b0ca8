"""Options of the engine that runs the trainings of a command."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ntm_rl.agents.cli.arguments import count
from ntm_rl.errors import InputError

if TYPE_CHECKING:
    from ntm_rl.agents.engines.jobs import Engine


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the engine, among them `--jobs`."""
    parser.add_argument("--jobs", type=count, metavar="J", help="number of parallel trainings (default: 1)")
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="where they run: this machine, or a Ray cluster"
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="head of the Ray cluster; --jobs then defaults to what it has room for (default: Ray on this machine)",
    )
    parser.add_argument("--cpus", type=count, metavar="N", help="CPUs that Ray reserves per training (default: 1)")
    parser.add_argument(
        "--gpus", type=float, metavar="N", help="GPUs, or a fraction of one (default: 1 with device=cuda, otherwise 0)"
    )


def make_engine(
    options: argparse.Namespace, folder: Path, local: "Callable[[int], Engine]", *, uses_gpu: bool
) -> "Engine":
    """Returns the engine of the options.

    Args:
        options: The parsed options.
        folder: Folder of the trainings.
        local: Makes the engine of this machine for a number of parallel trainings.
        uses_gpu: Whether a training uses a GPU.

    Raises:
        InputError: an option of Ray for the local engine, or an invalid value.
    """
    if options.engine == "ray":
        from ntm_rl.agents.engines.ray_cluster import RayEngine

        cpus = 1 if options.cpus is None else options.cpus
        gpus = float(uses_gpu) if options.gpus is None else options.gpus
        return RayEngine(folder, options.jobs, options.address, cpus=cpus, gpus=gpus)
    for option in ("address", "cpus", "gpus"):
        if getattr(options, option) is not None:
            raise InputError(f"{option} = {getattr(options, option)!r}: needs --engine ray")
    return local(1 if options.jobs is None else options.jobs)
