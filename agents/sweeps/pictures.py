"""Pictures of a sweep, drawn by Optuna: history, importances and slices."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState

from ntm_rl.agents.inspection.plotting import save_png
from ntm_rl.errors import InputError


def draw_pictures(study: Study, out: Path) -> list[str]:
    """Writes `history.png`, `importances.png` and `slices.png`, and returns a line for each that cannot be drawn.

    Args:
        study: The study.
        out: The sweep's folder.

    Raises:
        WriteError: a file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")  # needs no display
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return ["no pictures: no trial is complete"]
    pictures: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, target_name="score"),
        "slices": lambda: plots.plot_slice(study, target_name="score"),
        "importances": lambda: plots.plot_param_importances(study, target_name="score"),
    }
    notes = []
    if len({each.value for each in complete}) < 2:
        del pictures["importances"]
        notes.append("no importances.png: it needs two complete trials with different scores")
    for name, draw in pictures.items():
        with warnings.catch_warnings(), pyplot.style.context("default"), pyplot.rc_context({"savefig.bbox": "tight"}):
            warnings.simplefilter("ignore")  # the functions are experimental
            try:
                axes = draw()
                save_png(axes.flat[0].figure if hasattr(axes, "flat") else axes.figure, out / f"{name}.png")
            except InputError:
                raise
            except Exception as error:  # a picture must not stop a sweep
                notes.append(f"no {name}.png: {type(error).__name__}: {error}")
            pyplot.close("all")
    return notes
