"""The ranks of a training, and what they compute together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ntm_rl.errors import InputError

T = TypeVar("T")


class RankLostError(InputError):
    """Another rank was killed, failed or did not answer."""


@dataclass(frozen=True)
class Ranks:
    """This process and the others of a data-parallel training.

    All ranks must call the methods that communicate in the same order. They raise a `RankLostError` if a rank is lost.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes; with 1, the methods do not communicate.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes logs, checkpoints and agents."""
        return self.rank == 0

    def check_device(self, device: torch.device) -> None:
        """Raises an `InputError` if the ranks cannot exchange tensors of a device, as where they share a GPU."""
        if self.size > 1 and device.type == "cuda" and "cuda" not in str(dist.get_backend_config()):
            raise InputError(
                f"processes: each needs a GPU of its own, and this host has {torch.cuda.device_count()}; use "
                "device=cpu or fewer processes"
            )

    def total(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all ranks, in place; returns it."""
        if self.size > 1:
            with _explained(self):
                dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Returns the concatenation of all ranks' tensors, which have the same shape."""
        if self.size == 1:
            return tensor
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _explained(self):
            dist.all_gather(parts, tensor)
        return torch.cat(parts, dim)

    def exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Sends rows to the other ranks and returns those received.

        Args:
            rows: Rows for rank 0, 1 and so on, `[n, ...]`.
            sent: Number of rows for each rank.
            received: Number of rows that each rank sends here.
        """
        result = rows.new_empty(sum(received), *rows.shape[1:])
        with _explained(self):
            dist.all_to_all_single(result, rows, received, sent)
        return result

    def gather_array(self, array: np.ndarray) -> np.ndarray:
        """As `gather`, for arrays and their first axis."""
        if self.size == 1:
            return array
        gathered: np.ndarray = self.gather(torch.from_numpy(np.ascontiguousarray(array))).numpy()
        return gathered

    def gather_objects(self, value: T) -> list[T]:
        """Returns the values of all ranks; they are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _explained(self):
            dist.all_gather_object(values, value)
        return values

    def collect(self, value: T) -> list[T] | None:
        """As `gather_objects`, for the first rank only; the others get None."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        with _explained(self):
            dist.gather_object(value, values)
        return values

    def of_first(self, value: T) -> T:
        """Returns the first rank's value."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with _explained(self):
            dist.broadcast_object_list(values)
        first: T = values[0]
        return first

    def largest(self, number: int) -> int:
        """Returns the largest number of all ranks."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number)
        with _explained(self):
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag of any rank is set."""
        return bool(self.largest(int(flag)))

    def share(self, *tensors: Tensor) -> None:
        """Replaces tensors by those of the first rank."""
        if self.size > 1:
            for tensor in tensors:
                with _explained(self), torch.no_grad():
                    dist.broadcast(tensor, 0)

    def agree(self, function: Callable[[], T]) -> T:
        """Calls a function that does not communicate; if it raises an `InputError` on any rank, all ranks raise it.

        Raises:
            InputError: the error of the first rank that has one; `is_reported` is true on the other ranks.
        """
        if self.size == 1:
            return function()
        result, error = None, None
        try:
            result = function()
        except InputError as raised:
            error = raised
        errors = self.gather_objects(error)
        first = next((rank for rank, each in enumerate(errors) if each is not None), None)
        if first is None:
            return result  # type: ignore[return-value]
        if error is not None and first == self.rank:
            raise error
        other: Any = errors[first]
        other.is_reported = True
        raise other

    def on_first(self, function: Callable[[], T]) -> T:
        """Calls a function on the first rank; returns its result, or raises its `InputError`, on all ranks."""
        result = self.agree(lambda: function() if self.is_first else None)
        return self.of_first(result)  # type: ignore[return-value]

    def rows(self, count: int) -> slice:
        """Returns this rank's part of `count` rows, which are as equal as possible."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def padded(self, tensor: Tensor) -> Tensor:
        """Returns `[size * n, ...]` with this rank's n rows at their place and zeros elsewhere.

        From a generator with the same state on all ranks, every rank thus draws the random numbers of all rows, as one
        process with these rows does.
        """
        if self.size == 1:
            return tensor
        count = len(tensor)
        whole = tensor.new_zeros(self.size * count, *tensor.shape[1:])
        whole[self.rank * count : (self.rank + 1) * count] = tensor
        return whole

    def own(self, tensor: Tensor) -> Tensor:
        """Returns this rank's rows of a tensor with the rows of `padded`."""
        return tensor if self.size == 1 else tensor[self.rows(len(tensor))]


SINGLE = Ranks()


@contextmanager
def _explained(ranks: Ranks) -> Iterator[None]:
    """Raises a `RankLostError` for an error of torch's communication."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        raise RankLostError(
            f"rank {ranks.rank} of {ranks.size}: lost another rank (killed, failed or silent for too long): {reason}"
        ) from error
