"""Encodes MiniGrid's and BabyAI's missions as one-hot words."""

import re
import warnings
from collections.abc import Iterable
from typing import Any, Literal
from zlib import crc32

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Mission = Literal["auto", "words", "none"]

# All words of BabyAI's grammar (Chevalier-Boisvert et al. 2019), which its mission spaces do not contain.
BABYAI_WORDS = """go to pick up open put next the a object box ball key door red green blue purple yellow grey
in front of you behind on your left right , then after and"""
BABYAI_MAX_TOKENS = 72  # "put ... next to ... and put ... next to ..., then" and the same again
UNKNOWN_MAX_TOKENS = 32  # for mission spaces without a vocabulary
FEW_BUCKETS, MANY_BUCKETS = 8, 64  # hash buckets for unknown words, with and without a vocabulary


class MissionWords:
    """Encodes a mission as a sequence of one-hot words, so that different missions are different observations.

    The vocabulary is that of the mission space: its template with all placeholder values, or BabyAI's grammar. Unknown
    words are hashed (CRC-32), and so is the rest of a mission that is too long, as one word.

    Args:
        space: A `minigrid.core.mission.MissionSpace`.

    Attributes:
        changes: Whether the space has more than one mission.
        space: Space of the encoded missions, `Box(0, 1, (places * words,))`.
    """

    def __init__(self, space: Any):
        missions = list(_missions(space))
        takes_any = space.ordered_placeholders is None and space.contains(f"{missions[0]} ?")  # as BabyAI's
        self.changes = takes_any or len(set(missions)) > 1
        words: Iterable[str] = [word for mission in missions for word in tokens(mission)]
        self.places = max(len(tokens(mission)) for mission in missions) + len(space.ordered_placeholders or ())
        self.buckets = FEW_BUCKETS
        if takes_any:
            words, self.places = tokens(BABYAI_WORDS), BABYAI_MAX_TOKENS
        elif not self.changes:
            words, self.places, self.buckets = [], UNKNOWN_MAX_TOKENS, MANY_BUCKETS
        self.vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
        self.words = len(self.vocabulary) + self.buckets
        self.space = spaces.Box(0, 1, (self.places * self.words,), np.float32)

    def encode(self, mission: str) -> NDArray[np.float32]:
        """Returns the one-hot encoding `[places * words]` of a mission."""
        found = tokens(mission)
        if len(found) > self.places:
            found = [*found[: self.places - 1], " ".join(found[self.places - 1 :])]
        features = np.zeros((self.places, self.words), dtype=np.float32)
        features[np.arange(len(found)), [self._number(word) for word in found]] = 1
        return features.ravel()

    def _number(self, word: str) -> int:
        known = self.vocabulary.get(word)
        return len(self.vocabulary) + crc32(word.encode()) % self.buckets if known is None else known


class MissionReader:
    """Encodes missions according to `env.mission`, or drops them, with a warning if they change.

    Args:
        space: A `minigrid.core.mission.MissionSpace`.
        mission: "words": always encode; "none": never; "auto": if the space has more than one mission.

    Attributes:
        words: The encoder; None if missions are dropped.
        changes: Whether the space has more than one mission.
    """

    def __init__(self, space: Any, mission: Mission):
        words = MissionWords(space)
        self.changes, self._is_watched = words.changes, mission == "auto"
        self.words = words if mission == "words" or (mission == "auto" and words.changes) else None
        self._first: str | None = None

    @property
    def space(self) -> spaces.Space[Any]:
        """Space of the encoded missions; empty if they are dropped."""
        return spaces.Box(0, 1, (0,), np.float32) if self.words is None else self.words.space

    @property
    def size(self) -> int:
        """Size of the encoding."""
        return int(spaces.flatdim(self.space))

    def read(self, mission: str) -> NDArray[np.float32]:
        """Returns the encoding `[size]` of a mission."""
        if self.words is not None:
            return self.words.encode(mission)
        if self._is_watched and mission != self._first:
            if self._first is not None:
                self._is_watched = False
                warnings.warn(
                    f"the mission changes ({self._first!r}, {mission!r}) though the environment's mission space has "
                    "only one: the agent does not see it; use env.mission=words",
                    stacklevel=2,
                )
            self._first = mission
        return np.zeros(0, dtype=np.float32)


def is_mission(space: spaces.Space[Any]) -> bool:
    """Whether a space is one of MiniGrid's missions."""
    return hasattr(space, "mission_func") and hasattr(space, "ordered_placeholders")


def tokens(mission: str) -> list[str]:
    """Returns the words and punctuation marks of a mission."""
    return re.findall(r"\w+|[^\w\s]", mission)


def _missions(space: Any) -> Iterable[str]:
    """Returns missions that contain every value of every placeholder."""
    lists = space.ordered_placeholders or []
    yield space.mission_func(*(choices[0] for choices in lists))
    for place, choices in enumerate(lists):
        for choice in choices[1:]:
            yield space.mission_func(*(choice if each == place else lists[each][0] for each in range(len(lists))))
