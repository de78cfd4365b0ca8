"""What a sweep varies, trains and measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ntm_rl.agents.runs.changes import find_changes
from ntm_rl.agents.settings.errors import ConfigError
from ntm_rl.agents.settings.loading import AnySettings, load_config, validate
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.settings.sources import SPACES, SUFFIXES
from ntm_rl.agents.settings.values import keys_of, with_value
from ntm_rl.agents.sweeps.scoring import LAST, Metric, make_metric
from ntm_rl.agents.sweeps.space import Space, is_option_of, load_space, setting_errors
from ntm_rl.errors import InputError, did_you_mean

PrunerName = Literal["none", "hyperband", "wilcoxon"]
PRUNERS: tuple[str, ...] = get_args(PrunerName)
MIN_WILCOXON_SEEDS = 5  # a trial ends after four pairs at the earliest: the p-value of three is at least 1/8
# Settings that may change when a sweep is continued.
FREE = ("run_dir", "wandb", "tracking", "device", "threads", "checkpoint")


@dataclass(frozen=True)
class Plan:
    """What a sweep varies, trains and measures.

    Attributes:
        name: Names of the config and the space, for folders.
        data: Keys and values of the base config; its seed is the first of the trials and that of the sampler.
        settings: The base config with its defaults.
        space: The search space.
        seeds: Number of trainings of a trial.
        metric: The value that the trials are compared by.
        pruner: The method that ends trials early.
    """

    name: str
    data: Mapping[str, Any]
    settings: AnySettings
    space: Space
    seeds: int
    metric: Metric
    pruner: PrunerName

    def trial_data(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the config of a trial with the values of a space.

        Raises:
            ConfigError: the values do not fit together.
        """
        data = dict(self.data)
        for key, value in values.items():
            data = with_value(data, key, value)
        errors = setting_errors(data)
        if errors:
            raise ConfigError("; ".join(errors))
        return data

    @property
    def without_effect(self) -> list[str]:
        """Keys that have no effect because they are options of a core that no trial has."""
        space = {each.key: each for each in self.space.parameters}
        cores = space["core"].domain.examples if "core" in space else (self.settings.core,)
        options = [key for key in space if key.startswith("memory.")]
        return [key for key in options if not any(is_option_of(key, core) for core in cores)]

    def describe(self) -> dict[str, Any]:
        """Returns everything that makes two sweeps different, as JSON values."""
        comparison = {"metric": self.metric.name, "minimize": self.metric.minimize, "pruner": self.pruner}
        return {"config": dict(self.data), "space": self.space.describe(), "seeds": self.seeds, **comparison}


def make_plan(
    config: str,
    space: str,
    overrides: Sequence[str] = (),
    *,
    seeds: int = 1,
    metric: str = LAST,
    minimize: bool = False,
    pruner: str = "none",
) -> Plan:
    """Returns the plan of a sweep.

    Args:
        config: The base config, as for `load_settings`.
        space: Path of a YAML file, or name of a packaged space.
        overrides: `key=value` settings of all trials.
        seeds: Number of trainings of a trial.
        metric: See `make_metric`.
        minimize: See `make_metric`.
        pruner: `none`, `hyperband` (compares learning curves) or `wilcoxon` (compares seeds).

    Raises:
        InputError: an invalid config, space or argument.
    """
    data, settings = load_config(config, overrides)
    if seeds < 1:
        raise InputError(f"seeds = {seeds}: must be at least 1")
    if settings.processes > 1:
        raise InputError(f"processes = {settings.processes}: a sweep trains each seed in one process; use --jobs")
    if settings.seed + seeds > 2**32:
        raise InputError(f"seed = {settings.seed}: too large for {seeds} seeds from it on")
    match pruner:
        case "none" | "hyperband" | "wilcoxon" as chosen:
            pass
        case _:
            raise InputError(f"pruner = {pruner!r}: valid are {', '.join(PRUNERS)}.{did_you_mean(pruner, PRUNERS)}")
    if chosen == "wilcoxon" and seeds < MIN_WILCOXON_SEEDS:
        raise InputError(
            f"pruner = 'wilcoxon', seeds = {seeds}: needs at least {MIN_WILCOXON_SEEDS} seeds: with fewer its "
            "p-value cannot fall below 0.1 before the last seed"
        )
    return Plan(
        f"{_stem(config)}-{_stem(space.removeprefix(f'{SPACES}/'))}",
        _with_paths(data, settings),
        settings,
        load_space(space, data, keys_of(overrides)),
        seeds,
        make_metric(metric, settings.kind, minimize=minimize),
        chosen,
    )


def find_differences(plan: Plan, stored: Mapping[str, Any]) -> list[str]:
    """Returns in what a plan differs from the description of an earlier one, as `key = old instead of new`."""
    old, new = dict(stored), plan.describe()
    for each in (old, new):
        settings = validate(each.pop("config"), "the config of the sweep").model_dump()
        each |= {key: value for key, value in settings.items() if key not in FREE}
    return [f"{key} = {before} instead of {after}" for key, (before, after) in find_changes(old, new).items()]


def _with_paths(data: Mapping[str, Any], settings: AnySettings) -> dict[str, Any]:
    """Returns a config with absolute paths, which is valid in any folder."""
    resolved = settings.resolved()
    paths = {"core_path": resolved.core_path}
    if isinstance(resolved, PpoTrainingSettings):
        init_from = resolved.policy.init_from
        paths |= {"env.path": resolved.env.path, "policy.init_from": init_from and str(Path(init_from).absolute())}
    result = dict(data)
    for key, path in paths.items():
        if path is not None:
            result = with_value(result, key, path)
    return result


def _stem(name: str) -> str:
    """Returns a name of a config or space as part of a file name."""
    name = Path(name).stem if name.endswith(SUFFIXES) else name
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in name).strip("-.") or "config"
