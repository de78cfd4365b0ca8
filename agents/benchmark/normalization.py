"""Normalised scores: 0 is random play, 1 the optimum.

`random_returns.csv` holds the returns of random play. It is the output of these two commands, the second without its
header, on 2026-11-29:

    ntm-rl benchmark random --suites general-dev,general-test,memory-rewriting --tasks TASKS --episodes 10000
    ntm-rl benchmark random --suites general-test --tasks Pong --episodes 500

where TASKS are all tasks but Pong; both use seed 0.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from ntm_rl.agents.benchmark.suites import SUITES


class Optimum(NamedTuple):
    """The best mean return of any agent, or an upper bound of it."""

    value: float
    is_exact: bool = True


class Reference(NamedTuple):
    """Mean return of random play, and the optimum."""

    random: float
    optimum: Optimum

    def score(self, mean_return: float) -> float:
        """Returns a mean return on the scale of random play, 0, and the optimum, 1."""
        return (mean_return - self.random) / (self.optimum.value - self.random)


def _optima() -> dict[str, Optimum]:
    """Returns the optimum of every task with the package's defaults, by name."""
    # The past determines all answers, and the rewards of right answers sum to 1. A CartPole of POPGym pays 1 / limit in
    # every step and can be balanced from all its first states.
    known = (
        "RepeatFirst",
        "RepeatPrevious",
        "CountRecall",
        "Autoencode",
        "PositionOnlyCartPole",
        "VelocityOnlyCartpole",
    )
    optima = _games(Optimum(1), *known)
    # Bounds: every guess a hit; no mine; no unequal pair; upright and at rest from the first step on; no fall in spite
    # of the noise.
    bounded = ("Battleship", "MineSweeper", "Concentration", "PositionOnlyPendulum", "NoisyPositionOnlyPendulum")
    optima |= _games(Optimum(1, is_exact=False), *bounded, "NoisyPositionOnlyCartPole")
    # Actions do not influence the cards, so it is optimal to name the more frequent of the higher and the lower cards
    # left. Mean of 100,000 episodes of this rule, standard error below 0.0004.
    for difficulty, value in (("Easy", 0.528), ("Medium", 0.516), ("Hard", 0.511)):
        optima[f"HigherLower{difficulty}"] = Optimum(value)
    # Bound: the best arm from the first step on. The largest of n uniform probabilities is n / (n + 1) on average, and
    # a payout scores 1, none -1, over the steps: 2 n / (n + 1) - 1.
    for difficulty, arms in (("Easy", 10), ("Medium", 20), ("Hard", 30)):
        optima[f"MultiarmedBandit{difficulty}"] = Optimum((arms - 1) / (arms + 1), is_exact=False)
    # Bound: the shortest way to the matching object, (size + 2) / 2 steps on average, of which each costs
    # 0.9 / (5 size^2). The agent must first go back to see which object matches.
    for size in (7, 9, 11, 13):
        optima[f"MemoryS{size}"] = Optimum(1 - 0.09 * (size + 2) / size**2, is_exact=False)
    # A correct turn at each junction pays 1; a name ends with the number of corridors.
    names = [task.name for task in SUITES["memory-rewriting"].tasks if task.name.startswith("EndlessTMaze")]
    optima |= {name: Optimum(int(name.rpartition("-")[2])) for name in names}
    # The docstrings of these environments derive 1.
    optima |= {f"MemoryChain-{length}": Optimum(1) for length in (20, 40, 100)}
    optima |= {f"PassiveTMaze-{length}": Optimum(1) for length in (50, 100, 250, 500)}
    optima |= {f"ColorCubes-{difficulty}": Optimum(1) for difficulty in ("trivial", "medium", "extreme")}
    optima |= {task: Optimum(1) for task in ("Copy", "AssociativeRecall")}
    # CartPole pays 1 for each of 500 steps; a perfect game of Pong ends 21 to 0.
    return optima | {"CartPoleNoVelocity": Optimum(500), "Pong": Optimum(21)}


def _games(optimum: Optimum, *games: str) -> dict[str, Optimum]:
    """Returns an optimum for all difficulties of POPGym's games."""
    return {f"{game}{difficulty}": optimum for game in games for difficulty in ("Easy", "Medium", "Hard")}


@cache
def references() -> Mapping[str, Reference]:
    """Returns the references of all tasks with the package's defaults, by name."""
    lines = files("ntm_rl.agents.benchmark").joinpath("random_returns.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    optima = _optima()
    return {task: Reference(float(mean), optima[task]) for task, _, mean, _ in rows}


def is_normalized(suite: str) -> bool:
    """Whether the scores of a suite are normalised: those of the tasks with the package's defaults."""
    return all(task.is_generic for task in SUITES[suite].tasks)
