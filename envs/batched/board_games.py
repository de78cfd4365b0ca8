"""POPGym's games on a hidden board, all sub-environments stepped at once.

Actions are (row, column), or with action masks the number of a cell, row by row. The observation does not contain the
position: agents need the previous action as well.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from ntm_rl.envs.batched.base import BatchedEnv, BoolArray, FloatArray, IntArray

SHIPS = (2, 3, 3, 4)
SHIP_CELLS = sum(SHIPS)
WATER, SHIP, FIRED_AT = range(3)
HIDDEN, MINE, VIEWED = range(3)
IS_HIT = np.array([0, 1, 0])  # by what the cell is
AFTERWARDS = np.array([VIEWED, MINE, VIEWED], dtype=np.int8)  # what a guess makes of a cell
MOST_NEIGHBORS = 9  # POPGym counts the cell itself


class BoardGame(BatchedEnv):
    """A game on a square board.

    Args:
        num_envs: Number of sub-environments.
        size: Rows and columns.
        observations: Number of different observations.
        steps: Longest episode.
        action_masks: Number the cells and offer `action_masks()`, which allows those not played yet.
    """

    def __init__(self, num_envs: int, size: int, observations: int, steps: int, action_masks: bool):
        actions = spaces.Discrete(size * size) if action_masks else spaces.MultiDiscrete([size, size])
        super().__init__(num_envs, spaces.Discrete(observations), actions)
        if action_masks:
            self.action_masks = self.unplayed
        self._size, self._steps = size, steps
        self._strides = np.array([size, 1])  # of a row and a column
        self._board = np.zeros((num_envs, size * size), dtype=np.int8)
        self._first_cells = np.arange(num_envs) * size * size  # of each board, in the flattened array of all

    @abstractmethod
    def set_up(self, indices: IntArray) -> None:
        """Draws the boards of new episodes in `indices` `[E]`."""

    @abstractmethod
    def guess(self, cells: IntArray) -> tuple[IntArray, FloatArray, BoolArray]:
        """Plays cells `[num_envs]`, numbered over all boards: observations, rewards, and what terminated."""

    @abstractmethod
    def unplayed(self) -> BoolArray:
        """Returns the cells that were not played yet, `[num_envs, size * size]`."""

    def begin(self, indices: IntArray, options: dict[str, Any]) -> IntArray:
        """See `BatchedEnv.begin`."""
        self.set_up(indices)
        return np.zeros(len(indices), dtype=np.int64)

    def play(self, actions: IntArray) -> tuple[IntArray, FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        played = actions if actions.ndim == 1 else actions.dot(self._strides)
        cells = self._first_cells + played
        observations, rewards, terminated = self.guess(cells)
        return observations, rewards, terminated, self._time == self._steps


class Battleship(BoardGame):
    """Find all cells of four ships, of 2, 3, 3 and 4 cells in a row or column.

    The observation is whether the last guess was a hit. A hit scores 1 / 12; a miss, or a cell guessed before, costs 1
    over the number of cells without a ship. The episode terminates with the last hit and is truncated after as many
    steps as there are cells.

    Args:
        num_envs: Number of sub-environments.
        size: Rows and columns.
        action_masks: See `BoardGame`.
    """

    def __init__(self, num_envs: int, size: int = 10, action_masks: bool = False):
        super().__init__(num_envs, size, observations=2, steps=size**2, action_masks=action_masks)
        self._rewards = np.array([-1 / (size**2 - SHIP_CELLS), 1 / SHIP_CELLS])  # of a miss and a hit
        self._left = np.zeros(num_envs, dtype=np.int64)  # cells of ships that were not hit
        self._places = [places_of(ship, size) for ship in SHIPS]

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {"_time": (0, self._steps - 1), "_board": (WATER, FIRED_AT), "_left": (1, SHIP_CELLS)}

    def set_up(self, indices: IntArray) -> None:
        """See `BoardGame.set_up`."""
        self._board[indices] = WATER
        self._left[indices] = SHIP_CELLS
        for index in indices:
            self._board[index, list(self._draw_ships())] = SHIP

    def guess(self, cells: IntArray) -> tuple[IntArray, FloatArray, BoolArray]:
        """See `BoardGame.guess`."""
        board = self._board.reshape(-1)
        hits = IS_HIT.take(board.take(cells))
        board[cells] = FIRED_AT
        self._left -= hits
        return hits, self._rewards.take(hits), self._left == 0

    def unplayed(self) -> BoolArray:
        """See `BoardGame.unplayed`."""
        masks: BoolArray = self._board != FIRED_AT
        return masks

    def _draw_ships(self) -> set[int]:
        """Returns the cells of ships that are put one after the other to a random free place."""
        taken: set[int] = set()
        for places in self._places:
            cells = places[int(self.np_random.random() * len(places))]
            while not taken.isdisjoint(cells):
                cells = places[int(self.np_random.random() * len(places))]
            taken.update(cells)
        return taken


def places_of(ship: int, size: int) -> list[range]:
    """Returns the cells of a ship at each of its places on a board of `size` rows and columns."""
    starts = [(line, start) for line in range(size) for start in range(size - ship + 1)]
    rows = [range(line * size + start, line * size + start + ship) for line, start in starts]
    columns = [range(start * size + line, (start + ship) * size + line, size) for line, start in starts]
    return rows + columns


class MineSweeper(BoardGame):
    """View all cells that have no mine.

    The observation is the number of mines in the last cell and its eight neighbours. A new cell scores 1 / `n`, where
    `n` is the number of cells without a mine; a cell viewed before costs 0.5 / (n - 2); a mine costs 0.5 + 1 / n and
    terminates the episode, as does the last cell without a mine. Episodes are truncated after `n` steps.

    Args:
        num_envs: Number of sub-environments.
        size: Rows and columns.
        mines: Number of mines.
        action_masks: See `BoardGame`.
    """

    def __init__(self, num_envs: int, size: int = 4, mines: int = 2, action_masks: bool = False):
        cells = size * size
        clear = cells - mines
        observations = min(mines, MOST_NEIGHBORS) + 1
        super().__init__(num_envs, size, observations, steps=clear, action_masks=action_masks)
        self._mines = mines
        self._rewards = np.array([1 / clear, -0.5 - 1 / clear, -0.5 / (clear - 2)])  # by what the cell was
        row, column = np.divmod(np.arange(cells), size)
        self._left = np.zeros(num_envs, dtype=np.int64)  # hidden cells without a mine
        self._is_near = (abs(row[:, None] - row) <= 1) & (abs(column[:, None] - column) <= 1)  # [cells, cells]
        self._neighbors = np.zeros((num_envs, cells), dtype=np.int64)

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {
            "_time": (0, self._steps - 1),
            "_board": (HIDDEN, VIEWED),
            "_neighbors": (0, min(self._mines, MOST_NEIGHBORS)),
            "_left": (1, self._steps),
        }

    def set_up(self, indices: IntArray) -> None:
        """See `BoardGame.set_up`."""
        cells = np.broadcast_to(np.arange(self._size**2), (len(indices), self._size**2))
        mines = self.np_random.permuted(cells, axis=1)[:, : self._mines]
        self._board[indices] = HIDDEN
        self._board[indices[:, None], mines] = MINE
        self._left[indices] = self._steps
        self._neighbors[indices] = self._is_near[mines].sum(axis=1)

    def guess(self, cells: IntArray) -> tuple[IntArray, FloatArray, BoolArray]:
        """See `BoardGame.guess`."""
        board = self._board.reshape(-1)
        found = board[cells]
        is_mine = found == MINE
        board[cells] = AFTERWARDS[found]
        self._left -= found == HIDDEN
        return self._neighbors.reshape(-1)[cells], self._rewards[found], is_mine | (self._left == 0)

    def unplayed(self) -> BoolArray:
        """See `BoardGame.unplayed`."""
        masks: BoolArray = self._board != VIEWED
        return masks

    def play(self, actions: IntArray) -> tuple[IntArray, FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`; an episode that terminates is not truncated as well."""
        observations, rewards, terminated, truncated = super().play(actions)
        return observations, rewards, terminated, truncated & ~terminated


BOARD_GAMES: dict[str, Callable[..., BoardGame]] = {
    "popgym-BattleshipEasy-v0": partial(Battleship, size=8),
    "popgym-BattleshipMedium-v0": partial(Battleship, size=10),
    "popgym-BattleshipHard-v0": partial(Battleship, size=12),
    "popgym-MineSweeperEasy-v0": partial(MineSweeper, size=4, mines=2),
    "popgym-MineSweeperMedium-v0": partial(MineSweeper, size=6, mines=6),
    "popgym-MineSweeperHard-v0": partial(MineSweeper, size=8, mines=10),
}
