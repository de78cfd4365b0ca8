"""The algorithmic tasks by name."""

import inspect
from collections.abc import Mapping
from typing import Any

from ntm_rl.envs.algorithmic.addition import Addition
from ntm_rl.envs.algorithmic.associative_recall import AssociativeRecall
from ntm_rl.envs.algorithmic.copy import Copy
from ntm_rl.envs.algorithmic.dynamic_ngrams import DynamicNGrams
from ntm_rl.envs.algorithmic.priority_sort import PrioritySort
from ntm_rl.envs.algorithmic.repeat_copy import RepeatCopy
from ntm_rl.envs.algorithmic.reverse import Reverse
from ntm_rl.envs.algorithmic.sort_by_key import SortByKey
from ntm_rl.envs.algorithmic.task import AlgorithmicTask
from ntm_rl.errors import InputError, did_you_mean

TASKS: Mapping[str, type[AlgorithmicTask]] = {
    "copy": Copy,
    "repeat_copy": RepeatCopy,
    "associative_recall": AssociativeRecall,
    "dynamic_ngrams": DynamicNGrams,
    "priority_sort": PrioritySort,
    "reverse": Reverse,
    "sort_by_key": SortByKey,
    "addition": Addition,
}


def make_task(name: str, **options: Any) -> AlgorithmicTask:
    """Makes a task by name.

    Raises:
        InputError: the task or an option is unknown, or an option is out of range.
    """
    if name not in TASKS:
        raise InputError(f"task = {name!r}: unknown task; valid are {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    valid = inspect.signature(TASKS[name]).parameters
    for key in options:
        if key not in valid:
            raise InputError(
                f"{key}: task {name!r} has no such option; it has {', '.join(valid)}.{did_you_mean(key, valid)}"
            )
    return TASKS[name](**options)
