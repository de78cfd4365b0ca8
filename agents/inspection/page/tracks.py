"""Pictures over time: the rows of a page that share its time axis."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.inspection.episode import AnsweredSequence, DiscreteAction, Episode, NumericAction
from ntm_rl.agents.inspection.memory_trace import FloatArray, MemoryTrace
from ntm_rl.agents.inspection.page.arrays import ArrayPacker
from ntm_rl.agents.inspection.writers import find_writers

Track = dict[str, Any]  # JSON values, see `Track` in track.js

MAX_ROWS = 256  # of a picture: slots, units or numbers
MAX_LINES = 6  # numbers of a Gaussian action that are drawn as lines
UNIT = (0.0, 1.0)
WEIGHT_POWER = 2  # small weights stay visible beside large ones
UNIT_PARAMETERS = ("gate", "free gate", "allocation gate", "write gate", "interpolation gate")
SEES, DOES = "Sees", "Does"  # panels of the numbers of the current step
SHIFT, ERASE, MODES = "shift", "erase", {"read mode": ("backward", "content", "forward")}


class TrackBuilder:
    """Makes the tracks of an episode.

    Args:
        packer: Collects the arrays.
    """

    def __init__(self, packer: ArrayPacker):
        self._packer = packer

    def episode(self, episode: Episode) -> list[Track]:
        """Returns the tracks of rewards, actions and observations."""
        rewards = episode.rewards
        tracks = [
            self.line("agent", "reward", rewards, bars=True),
            self.line("agent", "return", np.cumsum(rewards, dtype=np.float64)),
            self.line("agent", "value", episode.values),
            *self._actions(episode.actions),
        ]
        for part, numbers in episode.observations:
            if numbers.shape[1]:
                tracks.append(self.heat("observation", part.name, numbers, labels=part.labels, now=SEES))
        return tracks

    def sequence(self, sequence: AnsweredSequence) -> list[Track]:
        """Returns the tracks of the inputs, targets, answers and errors of an algorithmic task."""
        mask = sequence.mask[:, None]
        errors = np.abs(sequence.answers - sequence.targets) * mask
        blocks = {
            "inputs": sequence.inputs,
            "targets": sequence.targets * mask,
            "answers": sequence.answers * mask,
            "errors": errors,
        }
        limits = {name: UNIT for name in ("targets", "answers", "errors")}
        return [
            self.heat("sequence", name, block, row="bit", limits=limits.get(name)) for name, block in blocks.items()
        ]

    def memory(self, trace: MemoryTrace) -> dict[str, Any]:
        """Returns the memory, the heads and their tracks."""
        shown = _shown_slots(trace)
        found: dict[str, Any] = {"tracks": [], "heads": []}
        writers = find_writers(trace, shown)
        for name, head in trace.heads.items():
            weighting = self.heat(
                *(name, "weighting", head.weighting[:, shown]),
                row="slot",
                labels=shown,
                limits=UNIT,
                power=WEIGHT_POWER,
                head=name,
            )
            found["heads"].append({"name": name, "writes": head.writes, "weighting": weighting["values"]})
            found["tracks"].append(weighting)
            if name in writers:
                found["heads"][-1]["writers"] = [self._packer.add(each) for each in writers[name]]
            if head.vectors is not None:
                verb = "writes" if head.writes else "reads"
                found["tracks"].append(self.heat(name, verb, head.vectors, row="column", signed=True))
            found["tracks"] += list(self._parameters(name, head.parameters))
        for name, numbers in trace.slots.items():
            found["tracks"].append(self.heat("slots", name, numbers[:, shown], row="slot", labels=shown))
        for name, numbers in trace.activations.items():
            found["tracks"].append(self.heat("activations", name, numbers, row="unit", signed=True))
        if trace.memory is not None:
            cube = self._packer.add_heat(trace.memory[:, shown, :MAX_ROWS], "diverging")
            found["memory"] = {"values": cube, "slots": shown.tolist(), "count": trace.memory.shape[1]}
        if trace.links is not None:
            links = trace.links[:, shown][:, :, shown]
            found["links"] = {
                "values": self._packer.add_heat(links, "sequential", limits=UNIT, power=WEIGHT_POWER),
                "slots": shown.tolist(),
            }
        return found

    def heat(
        self,
        group: str,
        name: str,
        numbers: FloatArray,
        *,
        labels: Sequence[Any] | NDArray[Any] | None = None,
        signed: bool | None = None,
        limits: tuple[float, float] | None = None,
        power: float = 1,
        **more: Any,
    ) -> Track:
        """Returns a track of numbers `[T, R]` as colours.

        Args:
            group: The panel.
            name: The name in it.
            numbers: `[T, R]`; at most `MAX_ROWS` rows are shown.
            labels: Names of the rows.
            signed: Whether the numbers may be negative; None: whether one is.
            limits: Smallest and largest number.
            power: See `ArrayPacker.add_heat`.
            **more: Further values for the page.
        """
        rows = min(numbers.shape[1], MAX_ROWS)
        is_signed = bool((numbers < 0).any()) if signed is None else signed
        if limits is None and not is_signed and numbers.size and numbers.max() <= 1:
            limits = UNIT
        values = self._packer.add_heat(
            numbers[:, :rows], "diverging" if is_signed else "sequential", limits=limits, power=power
        )
        names = [str(label) for label in (range(rows) if labels is None else labels[:rows])]
        left_out = numbers.shape[1] - rows
        return {"kind": "heat", "group": group, "name": name, "values": values, "labels": names, **more} | (
            {"left_out": left_out} if left_out else {}
        )

    def line(
        self, group: str, name: str, numbers: NDArray[Any], *, limits: tuple[float, float] | None = None, **more: Any
    ) -> Track:
        """Returns a track of numbers `[T]` as a curve, or `[T, 2]` with deviations around it."""
        track = {"kind": "line", "group": group, "name": name, "values": self._packer.add(np.asarray(numbers, "f4"))}
        return {**track, **({} if limits is None else {"limits": limits}), **more}

    def _actions(self, actions: list[DiscreteAction] | NumericAction) -> Iterator[Track]:
        if isinstance(actions, list):
            for each in actions:
                taken = self._packer.add(each.taken)
                yield self.heat(
                    "agent", each.name, each.probabilities, labels=each.labels, limits=UNIT, taken=taken, now=DOES
                )
            return
        if actions.deviations is None:
            yield self.heat("agent", "probability of 1", actions.means, labels=actions.labels, limits=UNIT, now=DOES)
            yield self.heat("agent", "action", actions.taken, labels=actions.labels, limits=UNIT, now=DOES)
            return
        for index, label in enumerate(actions.labels[:MAX_LINES]):
            curve = np.stack([actions.means[:, index], actions.deviations[:, index]], axis=1)
            yield self.line("agent", f"mean {label}", curve)
        yield self.heat("agent", "action", actions.taken, labels=actions.labels, now=DOES)

    def _parameters(self, head: str, parameters: Mapping[str, FloatArray]) -> Iterator[Track]:
        for name, numbers in parameters.items():
            if numbers.ndim == 1:
                yield self.line(head, name, numbers, limits=UNIT if name in UNIT_PARAMETERS else None, minor=True)
                continue
            labels: Sequence[str] | None = MODES.get(name)
            row = "column" if name == ERASE else None
            if name == SHIFT:
                reach = numbers.shape[1] // 2
                labels = [f"{offset:+d}" if offset else "0" for offset in range(-reach, reach + 1)]
            yield self.heat(head, name, numbers, row=row, labels=labels, limits=UNIT, minor=True)


def _shown_slots(trace: MemoryTrace) -> NDArray[np.int64]:
    """Returns the numbers of the slots to show: all, or those with the largest weights."""
    if not trace.heads:
        slots = 0 if trace.memory is None else trace.memory.shape[1]
        return np.arange(min(slots, MAX_ROWS))
    largest = np.max([head.weighting.max(axis=0) for head in trace.heads.values()], axis=0)
    return np.sort(np.argsort(-largest, kind="stable")[:MAX_ROWS])
