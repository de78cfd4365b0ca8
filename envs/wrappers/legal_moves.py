"""Action masks for POPGym's MineSweeper, Battleship and Concentration."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from ntm_rl.envs.wrappers.action_masks import Masks
from ntm_rl.errors import InputError

GAMES = ("MineSweeper", "Battleship", "Concentration")
LEVELS = ("Easy", "Medium", "Hard")
LEGAL_MOVES = tuple(f"popgym-{game}{level}-v0" for game in GAMES for level in LEVELS)
VIEWED = 2  # of popgym.envs.minesweeper.HiddenSquare


class LegalMoves(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds `action_masks()` to a game of POPGym, whose published version has none.

    Allowed are cells not yet viewed (MineSweeper) or fired at (Battleship), and face-down cards (Concentration).
    The actions of MineSweeper and Battleship become Discrete, the number of a cell, row by row: masks of (row, column)
    could only exclude whole rows and columns.

    Args:
        env: The environment to wrap.

    Raises:
        InputError: another environment.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        env_id = "" if env.spec is None else env.spec.id
        if env_id not in LEGAL_MOVES:
            raise InputError(f"LegalMoves: not supported for {env_id!r}; valid are {', '.join(LEGAL_MOVES)}")
        self._board: tuple[int, ...] | None = None
        if isinstance(env.action_space, spaces.MultiDiscrete):
            self._board = tuple(int(size) for size in env.action_space.nvec)
            self.action_space = spaces.Discrete(int(np.prod(self._board)))

    def step(self, action: Any) -> Any:
        """Steps the environment."""
        return self.env.step(action if self._board is None else self._position(int(action)))

    def action_masks(self) -> Masks:
        """Returns the allowed actions, `[n]` bool."""
        game: Any = self.env.unwrapped
        if hasattr(game, "hidden_grid"):
            return np.asarray(game.hidden_grid != VIEWED).ravel()
        if hasattr(game, "guesses"):
            return np.asarray(game.guesses == 0).ravel()
        masks = np.ones(game.deck.num_cards, dtype=np.bool_)
        masks[[*game.deck["face_up_idx"], *game.deck["in_play_idx"]]] = False
        return masks

    def _position(self, cell: int) -> NDArray[np.int64]:
        assert self._board is not None
        return np.array(np.unravel_index(cell, self._board), dtype=np.int64)
