"""The metrics of a run as a CSV file, which resumed trainings continue."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter

from ntm_rl.agents.storage.files import StorageError, WriteError, write_atomically


class CsvWriter(KVWriter):
    """Appends one row per dump to a file; new metrics get new columns.

    Args:
        path: The file; existing rows are kept.

    Raises:
        StorageError: the file is not a table; `write` raises a `WriteError` if the file cannot be written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._columns = read_table(path)[0]

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """See `stable_baselines3.common.logger.KVWriter.write`."""
        numbers = {key: number(value) for key, value in key_values.items() if "csv" not in key_excluded[key]}
        row = {key: value for key, value in numbers.items() if value is not None}
        new = sorted(row.keys() - set(self._columns))
        if new:
            columns, rows = read_table(self._path)
            self._columns = [*columns, *new]
            write_table(self._path, self._columns, rows)
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, lineterminator="\n").writerow(row)
        try:
            with self._path.open("a", newline="") as file:  # opened per row, so that closing the writer cannot fail
                file.write(text.getvalue())
        except OSError as error:
            raise WriteError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Does nothing: the file is closed after every row."""


def drop_rows_after(path: Path, column: str, steps: int) -> None:
    """Drops the rows whose `column` is above `steps`: a resumed training writes them again.

    Raises:
        StorageError: the file is not a table with numbers in that column, or cannot be written.
    """
    columns, rows = read_rows_until(path, column, steps)
    if columns:
        write_table(path, columns, rows)


def read_rows_until(path: Path, column: str, steps: int) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the columns, and the rows whose `column` is at most `steps`.

    Raises:
        StorageError: the file is not a table with numbers in that column.
    """
    columns, rows = read_table(path)
    try:
        return columns, [row for row in rows if float(row.get(column) or 0) <= steps]
    except ValueError as error:
        raise _no_table(path, str(error)) from error


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the columns and rows of a file; empty if it does not exist.

    Raises:
        StorageError: the file is not a table.
    """
    try:
        text = path.read_bytes().decode() if path.exists() else ""
        complete = text[: text.rfind("\n") + 1]  # a killed process may leave a partial row
        columns, *rows = list(csv.reader(io.StringIO(complete))) or [[]]
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise _no_table(path, str(error)) from error
    if any(len(row) > len(columns) for row in rows):
        raise _no_table(path, "a row has more values than there are columns")
    return columns, [dict(zip(columns, row, strict=False)) for row in rows]


def write_table(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    """Atomically replaces a file by a header and rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def number(value: Any) -> float | None:
    """Returns a logged value as a number, or None if it is not a number."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.item() if value.ndim == 0 else None
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (int, float)) else None


def _no_table(path: Path, reason: str) -> StorageError:
    return StorageError(f"{path}: not a table that ntm-rl wrote ({reason}); move it away to continue without it")
