"""The metrics of a run as TensorBoard events, which resumed trainings continue."""

import os
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import TensorBoardOutputFormat
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from ntm_rl.agents.storage.files import StorageError, WriteError

LENGTH, CHECKSUM = struct.Struct("<Q"), 4  # a record: length, its checksum, event, its checksum


class TensorBoardWriter(TensorBoardOutputFormat):
    """SB3's TensorBoard writer; a resumed training removes events after its checkpoint.

    Args:
        folder: Folder of the event files.
        steps: Step at which the training resumes.

    Raises:
        WriteError: the folder cannot be written.
    """

    def __init__(self, folder: Path, steps: int):
        self._folder = folder
        try:
            for path in folder.glob("events.out.tfevents.*"):
                drop_events_after(path, steps)
            self.writer = SummaryWriter(log_dir=str(folder))
        except OSError as error:
            raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error
        self._is_closed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """See `stable_baselines3.common.logger.KVWriter.write`.

        Raises:
            WriteError: the file cannot be written.
        """
        try:
            super().write(key_values, key_excluded, step)
        except OSError as error:
            raise WriteError(f"{self._folder}: cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Closes the file; an error is only a warning, as `write` has raised it already."""
        try:
            super().close()
        except OSError as error:
            warnings.warn(f"{self._folder}: the last events cannot be written: {error}", stacklevel=2)


def drop_events_after(path: Path, steps: int) -> None:
    """Truncates an event file before the first event of a later step, or the first incomplete event.

    Steps increase within a file. TensorBoard's own mechanism, a session marker, depends on the time in file names.

    Raises:
        OSError: the file cannot be written.
        StorageError: it is not an event file.
    """
    end = _end_of_events(path, steps)
    if end < path.stat().st_size:
        os.truncate(path, end)


def check_events(folder: Path) -> None:
    """Checks the event files in a folder without changing them.

    Raises:
        StorageError: one cannot be read, or is not an event file.
    """
    for path in folder.glob("events.out.tfevents.*"):
        try:
            _end_of_events(path, sys.maxsize)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error


def _end_of_events(path: Path, steps: int) -> int:
    """Returns the position after the last complete event of at most `steps`."""
    size, end = path.stat().st_size, 0
    with path.open("rb") as file:
        while len(head := file.read(LENGTH.size + CHECKSUM)) == LENGTH.size + CHECKSUM:
            length = LENGTH.unpack_from(head)[0]
            next_end = end + len(head) + length + CHECKSUM
            if next_end > size:
                break
            try:
                event = Event.FromString(file.read(length))
            except Exception as error:  # protobuf's error class depends on its build
                raise StorageError(
                    f"{path}: not a TensorBoard event file; move it away to continue without it"
                ) from error
            if event.step > steps:
                break
            end = next_end
            file.seek(end)
    return end
