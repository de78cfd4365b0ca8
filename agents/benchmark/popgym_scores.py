"""Published scores of POPGym: Morad et al. 2023 (arXiv:2303.01859), appendix B, table 3.

MMER after 15 million steps of RLlib's PPO, mean over three trials; `best` is the best of the paper's 13 models. The
paper's NoisyStatelessCartPole is today's NoisyPositionOnlyCartPole. The table is copied from a transcription
(github.com/bryjudy/fly-critic, `flycritic/popgym/results.py`), which lacks Concentration.
"""

from collections.abc import Mapping
from typing import NamedTuple


class PublishedScores(NamedTuple):
    """Scores of the paper's GRU and of its best model, and the name of the best model."""

    gru: float
    best: float
    best_model: str


POPGYM: Mapping[str, PublishedScores] = {
    "RepeatFirstEasy": PublishedScores(1.000, 1.000, "GRU and others"),
    "RepeatPreviousEasy": PublishedScores(1.000, 1.000, "GRU and others"),
    "RepeatPreviousMedium": PublishedScores(-0.315, 0.789, "LMU"),
    "CountRecallEasy": PublishedScores(0.177, 0.509, "LSTM"),
    "AutoencodeEasy": PublishedScores(-0.283, -0.283, "GRU"),
    "HigherLowerEasy": PublishedScores(0.529, 0.529, "GRU"),
    "NoisyPositionOnlyCartPoleEasy": PublishedScores(0.995, 0.995, "GRU"),
}
