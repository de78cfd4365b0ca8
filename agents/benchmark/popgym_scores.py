"""Published scores of POPGym: Morad et al. 2023 (arXiv:2303.01859), appendix B, table 3.

MMER after 15 million steps of RLlib's PPO, mean over three trials; `best` is the best of the paper's 13 models. The
paper's NoisyStatelessCartPole is today's NoisyPositionOnlyCartPole. The table is copied from a transcription
(github.com/bryjudy/fly-critic, `flycritic/popgym/results.py`), which lacks Concentration.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """Scores of the paper's GRU and of its best model, and the name of the best model."""

    gru: float
    best: float
    best_model: str


POPGYM: Mapping[str, Published] = {
    "RepeatFirstEasy": Published(1.000, 1.000, "GRU and others"),
    "RepeatPreviousEasy": Published(1.000, 1.000, "GRU and others"),
    "RepeatPreviousMedium": Published(-0.315, 0.789, "LMU"),
    "CountRecallEasy": Published(0.177, 0.509, "LSTM"),
    "AutoencodeEasy": Published(-0.283, -0.283, "GRU"),
    "HigherLowerEasy": Published(0.529, 0.529, "GRU"),
    "NoisyPositionOnlyCartPoleEasy": Published(0.995, 0.995, "GRU"),
}
