"""The files that `watch` and `record` write."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.storage.files import check_writable
from ntm_rl.errors import InputError


def new_file(run: Run, folder: str, suffixes: Sequence[str], out: Path | None, seed: int) -> Path:
    """Returns the file to write, after checking that it can be written.

    Args:
        run: A run.
        folder: The run's folder of the default.
        suffixes: Valid suffixes; the default has the first.
        out: The file; None: a new one in the folder.
        seed: Seed of the episodes, for the name of the default.

    Raises:
        InputError: a file that exists, another suffix, or no such folder.
        WriteError: no permission, or another error of the system.
    """
    if out is None:  # microseconds: several commands may run at once
        out = run.make_folder(folder) / f"{datetime.now():%Y%m%d-%H%M%S-%f}-seed{seed}{suffixes[0]}"
    if out.suffix not in suffixes:
        raise InputError(f"out = {str(out)!r}: must end in {suffixes[0]}")
    if not out.parent.is_dir():
        raise InputError(f"out = {str(out)!r}: no such folder: {out.parent}")
    if os.path.lexists(out):
        raise InputError(f"out = {str(out)!r}: exists already; choose another name or delete it")
    check_writable(out)
    return out
