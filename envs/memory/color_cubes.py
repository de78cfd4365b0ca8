"""Color-Cubes: cubes that move, seen only in the moment in which one has moved."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.checks import require_one_of
from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray
from ntm_rl.envs.memory.env import DiagnosticEnv, DiagnosticVectorEnv, cells_to_image

MOVES = ((0, 1), (-1, 0), (0, -1), (1, 0))  # right, up, left, down, as (row, column)
COLORS = ((220, 60, 60), (60, 160, 60), (60, 90, 255), (170, 80, 200), (60, 200, 200))
FLOOR, AGENT = (0, 0, 0), (250, 190, 40)


class Difficulty(NamedTuple):
    """What the three difficulties differ in.

    Attributes:
        size: Rows and columns of the grid.
        cubes: Cubes, each of its own colour.
        targets: Cubes to reach in an episode.
        teleport: Probability of a teleport in a step.
        shows_colors: Whether colours are seen after the first observation.
    """

    size: int
    cubes: int
    targets: int
    teleport: float
    shows_colors: bool


DIFFICULTIES = {
    "trivial": Difficulty(size=5, cubes=3, targets=1, teleport=0.0, shows_colors=True),
    "medium": Difficulty(size=7, cubes=5, targets=5, teleport=0.1, shows_colors=True),
    "extreme": Difficulty(size=7, cubes=5, targets=5, teleport=0.1, shows_colors=False),
}


class ColorCubesVectorEnv(DiagnosticVectorEnv):
    """The vector environment of `ColorCubesEnv`, with the same arguments."""

    action_names = ("right", "up", "left", "down")

    def __init__(self, num_envs: int, *, difficulty: str = "medium", render_mode: str | None = None):
        require_one_of(tuple(DIFFICULTIES), difficulty=difficulty)
        self.size, self.cubes, self.targets, self.teleport, self.shows_colors = DIFFICULTIES[difficulty]
        features = 3 + self.cubes + self.cubes * (2 + self.cubes)
        super().__init__(num_envs, spaces.Box(0, 1, (features,), np.float32), len(MOVES), render_mode)
        self._patience = 2 * (self.size - 1)  # steps from corner to corner
        self._places = np.stack(np.divmod(np.arange(self.size**2), self.size), axis=1)  # (row, column) of each cell
        moved = np.clip(self._places[:, None] + np.array(MOVES), 0, self.size - 1)
        self._next_cells = moved @ np.array([self.size, 1])  # [cells, actions]
        self._agent = np.zeros(num_envs, dtype=np.int64)  # cell
        self._cubes = np.zeros((num_envs, self.cubes), dtype=np.int64)  # cell of each colour
        self._target = np.zeros(num_envs, dtype=np.int64)  # colour
        self._reached = np.zeros(num_envs, dtype=np.int64)  # targets
        self._waited = np.zeros(num_envs, dtype=np.int64)  # steps since the target was shown
        self._until_teleport = np.zeros(num_envs, dtype=np.int64)  # steps

    @property
    def longest(self) -> int:
        """Steps of the longest episode."""
        return self._patience * self.targets

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {
            "_time": (0, self.longest - 1),
            "_agent": (0, self.size**2 - 1),
            "_cubes": (0, self.size**2 - 1),
            "_target": (0, self.cubes - 1),
            "_reached": (0, self.targets - 1),
            "_waited": (0, self._patience - 1),
            "_until_teleport": (1, self.longest),
        }

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`."""
        for index in indices:
            generator = self.generators[index]
            self._agent[index], *self._cubes[index] = generator.permutation(self.size**2)[: self.cubes + 1]
            self._target[index] = generator.integers(self.cubes)
            self._until_teleport[index] = self._draw_teleport(generator)
        self._reached[indices], self._waited[indices] = 0, 0
        is_first = np.zeros(self.num_envs, dtype=np.bool_)
        is_first[indices] = True
        return self._observe(is_first, True)[indices]

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        self._agent = self._next_cells[self._agent, actions]
        is_reached = self._agent == self._cubes[self._indices, self._target]
        self._reached = self._reached + is_reached
        self._waited = np.where(is_reached, 0, self._waited + 1)
        terminated = (self._reached == self.targets) | (self._waited == self._patience)
        self._until_teleport = self._until_teleport - (self.teleport > 0)
        is_shown = ~terminated & (is_reached | (self._until_teleport == 0))
        for index in np.flatnonzero(is_shown):
            self._move_cube(int(index), bool(is_reached[index]))
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return self._observe(is_shown, self.shows_colors), is_reached / self.targets, terminated, truncated

    def final_infos(self) -> dict[str, NDArray[Any]]:
        """See `BatchedEnv.final_infos`."""
        return {"is_success": self._reached == self.targets}

    def render_text(self, index: int) -> str:
        """See `DiagnosticVectorEnv.render_text`: `A`, `B`, ... are the cubes, `@` is the agent."""
        cells = ["."] * self.size**2
        for color, cell in enumerate(self._cubes[index]):
            cells[cell] = chr(ord("A") + color)
        cells[self._agent[index]] = "@"
        rows = ["".join(cells[first : first + self.size]) for first in range(0, self.size**2, self.size)]
        target = chr(ord("A") + self._target[index])
        return "".join(f"{line}\n" for line in (f"target {target}, reached {self._reached[index]}", *rows))

    def render_image(self, index: int) -> NDArray[np.uint8]:
        """See `DiagnosticVectorEnv.render_image`: the agent is yellow, the top row has the target's colour."""
        cells = np.full((self.size**2, 3), FLOOR, dtype=np.uint8)
        cells[self._cubes[index]] = COLORS[: self.cubes]
        cells[self._agent[index]] = AGENT
        target = np.full((1, self.size, 3), COLORS[self._target[index]], dtype=np.uint8)
        return cells_to_image(np.concatenate([target, cells.reshape(self.size, self.size, 3)]))

    def _move_cube(self, index: int, is_reached: bool) -> None:
        """Moves the cube that was reached and sets a new target, or teleports another cube."""
        generator = self.generators[index]
        target = self._target[index]
        other = (target + 1 + generator.integers(self.cubes - 1)) % self.cubes
        moved = target if is_reached else other
        cell = generator.integers(self.size**2)
        while cell == self._agent[index] or cell in self._cubes[index]:
            cell = generator.integers(self.size**2)
        self._cubes[index, moved] = cell
        if is_reached:
            self._target[index] = other
        if self._until_teleport[index] == 0:
            self._until_teleport[index] = self._draw_teleport(generator)

    def _draw_teleport(self, generator: np.random.Generator) -> int:
        """Returns the steps until a teleport; `longest` stands for any number from there on."""
        return min(generator.geometric(self.teleport), self.longest) if self.teleport else self.longest

    def _observe(self, is_shown: BoolArray, shows_colors: bool) -> NDArray[np.float32]:
        """Returns observations `[num_envs, features]`: the state where `is_shown`, elsewhere the agent alone."""
        observations = np.zeros((self.num_envs, self.single_observation_space.shape[0]), dtype=np.float32)  # type: ignore[index]
        scale = self.size - 1
        observations[:, 0] = is_shown
        observations[:, 1:3] = self._places[self._agent] / scale
        shown = np.flatnonzero(is_shown)
        observations[shown, 3 + self._target[shown]] = 1
        colors = self._cubes[shown].argsort(axis=1)  # in the order of cells
        places = self._places[np.take_along_axis(self._cubes[shown], colors, axis=1)] / scale
        one_hot = np.eye(self.cubes)[colors] * shows_colors
        cubes = np.concatenate([places, one_hot], axis=2)  # [shown, cubes, 2 + cubes]
        observations[shown, 3 + self.cubes :] = cubes.reshape(len(shown), self.cubes * (2 + self.cubes))
        return observations


class ColorCubesEnv(DiagnosticEnv):
    """Color-Cubes after Shchendrigin et al. (2026, arXiv:2601.15086): a map that must be kept up to date.

    ## Description
    Cubes of different colours stand on a grid. The agent must reach the cube of the target's colour; that cube then
    moves to a free cell and another colour becomes the target. In other steps one of the other cubes may teleport to a
    free cell. The state is shown at the beginning and whenever a cube moves; otherwise the agent sees only where it is.
    In "extreme" colours are shown only at the beginning: which cube has moved follows from its old place.

    | difficulty | grid | cubes | targets | teleports per step | colours |
    |------------|------|-------|---------|--------------------|---------|
    | "trivial" | 5 x 5 | 3 | 1 | 0 | |
    | "medium" | 7 x 7 | 5 | 5 | 0.1 | whenever the state is shown |
    | "extreme" | 7 x 7 | 5 | 5 | 0.1 | at the beginning |

    ## Observation Space
    `Box(0, 1, (3 + cubes + cubes * (2 + cubes),), float32)`; all zeros but the agent's place where the state is hidden

    | Index | Observation |
    |-------|-------------|
    | 0 | whether the state is shown |
    | 1, 2 | the agent's row and column, 0 to 1 |
    | the next `cubes` | the target's colour, one-hot |
    | `2 + cubes` for each cube, row by row of the grid | its row and column, 0 to 1, and its colour, one-hot |

    ## Action Space
    `Discrete(4)`; a step out of the grid leaves the agent where it is. It may stand on the cell of another cube.

    | Num | Action |
    |-----|--------|
    | 0 | right |
    | 1 | up |
    | 2 | left |
    | 3 | down |

    ## Rewards
    A target that is reached pays 1 / targets.

    Returns: 1 at best (derived: the target stands still, and no cell is further away than an episode allows). Random
    actions return 0.1775 on average in "trivial" (derived), and 0.031 in "medium" and "extreme" (measured, 100,000
    episodes). The return is 1 if and only if all targets are reached, which `info["is_success"]` says at the end of an
    episode.

    ## Starting State
    Agent and cubes on different cells, and a target, all uniformly random.

    ## Episode End
    Terminates when all targets are reached, and where one is not within 2 (size - 1) steps, the longest distance.

    ## Arguments
    - `difficulty`: "trivial", "medium" or "extreme" ("medium")
    - `render_mode`: "rgb_array", "ansi" or None

    ## Registered Configurations
    - `ntm_rl/ColorCubes-v0`: `difficulty` "medium"

    ## Comparability
    Written from the paper's description, not its code. The description leaves open the sizes, the numbers of cubes and
    targets, the probability of a teleport, the rewards, the step limit and the layout of observations. All of these are
    decided here, so that only the order of agents can be compared with published figures, not the figures themselves.

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(self, *, difficulty: str = "medium", render_mode: str | None = None):
        super().__init__(ColorCubesVectorEnv(1, difficulty=difficulty, render_mode=render_mode))
