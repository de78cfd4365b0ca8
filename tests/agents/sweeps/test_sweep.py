"""Sweeps of trainings that are computed at once: trials, scores, results, pruning, and continuing."""

import csv
import math
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from ntm_rl.agents.engines.local import InProcessEngine
from ntm_rl.agents.runs.nonfinite import NonFiniteError
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.storage.files import WriteError
from ntm_rl.agents.sweeps import pictures, seed_job
from ntm_rl.agents.sweeps import sweep as sweep_module
from ntm_rl.agents.sweeps.results import Summary
from ntm_rl.agents.sweeps.storage import open_storage
from ntm_rl.agents.sweeps.study import SweepStudy
from ntm_rl.agents.sweeps.sweep import run_sweep
from ntm_rl.errors import InputError
from sweeps import SteppedEngine, peak_at, tiny_plan, write_run

SPACE = "ppo.learning_rate: {low: 1e-5, high: 1e-1, log: true}\nppo.n_epochs: [1, 2]\n"

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(autouse=True)
def trainings(monkeypatch):
    """Trainings whose return is highest at a learning rate of 1e-3."""
    monkeypatch.setattr(seed_job, "train_or_resume", peak_at(1e-3))
    monkeypatch.setattr(sweep_module, "draw_pictures", lambda study, out: [])
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def sweep(plan, out, n_trials, engine=None, **options) -> Summary:
    summary, stopped_by = run_sweep(plan, Path(out), n_trials, engine or InProcessEngine(), **options)
    assert stopped_by is None
    return summary


def rows(out) -> list[dict[str, str]]:
    with Path(out, "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def study_of(out) -> optuna.Study:
    return optuna.load_study(study_name=Path(out).name, storage=open_storage(None, Path(out)))


def test_tpe_finds_the_best_value_and_best_yaml_trains(tmp_path):
    lines = []
    summary = sweep(tiny_plan(tmp_path, SPACE, seeds=3), "out", 16, log=lines.append, command="ntm-rl sweep 'a\nb'")
    assert (summary.complete, summary.pruned, summary.failed) == (16, 0, 0)
    assert summary.score == pytest.approx(101, abs=6) and len(lines) == 16
    table = rows("out")
    best = max(table, key=lambda row: float(row["score"]))
    assert int(best["trial"]) == summary.best and float(best["score"]) == summary.score
    assert float(best["seed 0"]) + 2 == pytest.approx(float(best["seed 2"]))
    settings = load_settings("out/best.yaml")
    assert settings.ppo.learning_rate == float(best["ppo.learning_rate"]) == summary.values["ppo.learning_rate"]
    assert settings.run_dir == "runs/out"  # not shared with other sweeps
    assert settings.core == "lstm" and settings.seed == 0 and settings.tracking.group is None
    assert "# Sweep: ntm-rl sweep 'a\\nb'" in Path("out/best.yaml").read_text()


def test_pictures_are_drawn_where_they_can_be_computed(tmp_path):
    space = SPACE + "ppo.clip_range_vf: [null, 0.2]\npolicy.net_arch: [[8], [8, 8]]\nppo.n_steps: [auto, 32]\n"
    space += "n_envs: [2, 4]\nmemory.lstm.layers: {values: [1, 2], when: {n_envs: 2}}\npolicy.ortho_init: [true, false]"
    plan = tiny_plan(tmp_path, space)
    sweep(plan, "o", 1)
    notes = pictures.draw_pictures(study_of("o"), Path("o"))
    assert notes == ["no importances.png: it needs two complete trials with different scores"]
    sweep(plan, "o", 3)
    assert pictures.draw_pictures(study_of("o"), Path("o")) == []
    sweep(tiny_plan(tmp_path, "ppo.learning_rate: {low: 1e-5, high: 1e-1, log: true}"), "single", 2)
    assert pictures.draw_pictures(study_of("single"), Path("single")) == []
    for out in ("o", "single"):
        assert {path.name for path in Path(out).glob("*.png")} == {"history.png", "importances.png", "slices.png"}


def test_trials_are_runs_of_one_group(tmp_path):
    sweep(tiny_plan(tmp_path, SPACE, "seed=5", seeds=2), "results/first", 2)
    runs = [yaml.safe_load(path.read_text()) for path in sorted(Path("results/first/trials").glob("*/*/config.yaml"))]
    assert [run["seed"] for run in runs] == [5, 6, 5, 6]
    assert {run["tracking"]["group"] for run in runs} == {"first"}
    sweep(tiny_plan(tmp_path, SPACE, "tracking.group=mine"), "second", 1)
    (run,) = Path("second/trials").glob("*/*/config.yaml")
    assert yaml.safe_load(run.read_text())["tracking"]["group"] == "mine"


def test_the_score_is_the_interquartile_mean_of_the_metric(tmp_path, monkeypatch):
    values = [3.0, 100.0, 1.0, 2.0]

    def train(settings, config, *, show_progress):
        return write_run(settings, config, [values[settings.seed] + 10, values[settings.seed]])

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    assert sweep(tiny_plan(tmp_path, SPACE, seeds=4), "last", 1).score == 2.5
    assert sweep(tiny_plan(tmp_path, SPACE, seeds=4, metric="best"), "best", 1).score == 12.5
    options = {"metric": "rollout/ep_rew_mean", "minimize": True, "seeds": 4}
    low = sweep(tiny_plan(tmp_path, SPACE, **options), "column", 3)
    assert low.best == 0 and study_of("column").direction.name == "MINIMIZE"


def test_an_unknown_metric_ends_the_sweep_after_one_training(tmp_path, monkeypatch):
    trained = []

    def train(settings, config, *, show_progress):
        trained.append(config)
        return write_run(settings, config, [1.0])

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    plan = tiny_plan(tmp_path, SPACE, metric="rollout/ep_rew_maen", seeds=2)
    for _ in range(2):  # the second call does not train again
        with pytest.raises(InputError, match=r"not a column of .*, which has .* Did you mean rollout/ep_rew_mean\?"):
            sweep(plan, "out", 3)
    assert trained == ["0000"]


def test_a_metric_that_only_some_trials_have_fails_the_others(tmp_path, monkeypatch):
    def train(settings, config, *, show_progress):
        run = write_run(settings, config, [1.0])
        table = run.run / "progress.csv"
        if config == "0000":
            table.write_text(
                table.read_text().replace("rollout/ep_rew_mean", "rollout/ep_rew_mean,train/x", 1)[:-1] + ",2\n"
            )
        return run

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    summary = sweep(tiny_plan(tmp_path, SPACE, metric="train/x"), "out", 3)
    assert (summary.complete, summary.failed, summary.score) == (1, 2, 2.0)


def test_a_training_without_a_finished_episode_says_so(tmp_path, monkeypatch):
    def train(settings, config, *, show_progress):
        run = write_run(settings, config, [1.0])
        (run.run / "progress.csv").write_text("time/total_timesteps,train/loss\n512,1\n")
        return run

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    for metric in ("last", "rollout/ep_len_mean"):
        message = "the only trial failed.* as no episode ended; raise total_timesteps"
        with pytest.raises(InputError, match=message):
            sweep(tiny_plan(tmp_path, SPACE, metric=metric), metric.replace("/", "-"), 1)


def test_a_supervised_sweep_minimises_bits_per_sequence(tmp_path, monkeypatch):
    plan = tiny_plan(tmp_path, SPACE)
    assert not plan.metric.minimize
    from ntm_rl.agents.sweeps.plan import make_plan

    Path("space.yaml").write_text("optimizer.learning_rate: [1e-3, 1e-4]")
    metric = make_plan("algorithmic/copy", "space.yaml").metric
    assert metric.minimize and metric.column == "validation/bits_per_sequence"


def test_the_same_sweep_continues_to_more_trials_with_the_values_of_an_undisturbed_one(tmp_path):
    plan = tiny_plan(tmp_path, SPACE, seeds=2)
    sweep(plan, "once", 12)
    for n_trials in (3, 3, 11, 12):
        sweep(plan, "often", n_trials)
    assert rows("often") == rows("once")
    assert len({row["ppo.learning_rate"] for row in rows("once")}) == 12  # no value is drawn twice


def test_finished_trials_are_named_when_nothing_is_left_to_do(tmp_path):
    plan, lines = tiny_plan(tmp_path, SPACE), list[str]()
    sweep(plan, "out", 2)
    sweep(plan, "out", 2, log=lines.append)
    assert lines == ["2 trials are finished already; raise --trials to continue"]
    with pytest.raises(InputError, match="2 trials are finished already; --trials must be above 2 to continue"):
        sweep(plan, "out", 1)


@pytest.mark.parametrize(("out", "message"), [("file", "is a file"), ("file/x", "below one"), ("/proc/x", "be made")])
def test_a_folder_that_cannot_be_made_is_an_error_of_the_option(tmp_path, out, message):
    Path("file").touch()
    with pytest.raises(InputError, match=rf"out = '.*{out}': .*{message}.*; choose a") as caught:
        sweep(tiny_plan(tmp_path, SPACE), out, 1)
    assert not isinstance(caught.value, WriteError)


def test_another_sweep_in_the_folder_is_one_error_that_names_the_difference(tmp_path):
    sweep(tiny_plan(tmp_path, SPACE), "out", 1)
    before = sorted(Path("out").rglob("*"))
    others = {
        "seeds = 1 instead of 2": tiny_plan(tmp_path, SPACE, seeds=2),
        "ppo.gamma = 0.99 instead of 0.9": tiny_plan(tmp_path, SPACE, "ppo.gamma=0.9"),
        "space.ppo.n_epochs.values = [1, 2] instead of [1, 3]": tiny_plan(tmp_path, SPACE.replace("2]", "3]")),
        "pruner = none instead of hyperband": tiny_plan(tmp_path, SPACE, pruner="hyperband"),
        "metric = last instead of best": tiny_plan(tmp_path, SPACE, metric="best"),
    }
    for difference, plan in others.items():
        with pytest.raises(InputError) as caught:
            sweep(plan, "out", 1)
        assert difference in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(Path("out").rglob("*")) == before
    sweep(tiny_plan(tmp_path, SPACE, "checkpoint.every=5", "tracking.project=x"), "out", 2)  # no hyperparameters


def test_another_storage_or_folder_is_refused(tmp_path):
    plan = tiny_plan(tmp_path, SPACE)
    sweep(plan, "here/a", 1, storage="shared.log")
    with pytest.raises(InputError, match=r"the sweep in '.*here/a' uses '.*shared.log'"):
        sweep(plan, "here/a", 1)
    with pytest.raises(InputError, match=r"its study 'a' belongs to another sweep of '.*here/a'"):
        sweep(plan, "there/a", 1, storage="shared.log")
    sweep(plan, "there/b", 1, storage="shared.log")
    Path("shared.log").unlink()
    with pytest.raises(InputError, match=r"has no study 'a', but .* has its trials"):
        sweep(plan, "here/a", 1, storage="shared.log")


def test_a_trial_whose_process_ended_keeps_its_values_and_the_results_of_its_seeds(tmp_path, monkeypatch):
    plan = tiny_plan(tmp_path, SPACE, seeds=3)
    trained = []

    def train(settings, config, *, show_progress):
        if len(trained) == 4:
            trained.append("killed")
            raise SystemExit  # as if the process were killed
        trained.append((config, settings.seed))
        return peak_at(1e-3)(settings, config, show_progress=show_progress)

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    with pytest.raises(SystemExit):
        sweep(plan, "out", 3)
    values = [trial.params for trial in study_of("out").trials]
    assert len(values) == 2
    sweep(plan, "out", 3)
    assert trained[4:] == ["killed", ("0001", 1), ("0001", 2), ("0002", 0), ("0002", 1), ("0002", 2)]
    assert [trial.params for trial in study_of("out").trials][:2] == values
    monkeypatch.setattr(seed_job, "train_or_resume", peak_at(1e-3))
    sweep(plan, "undisturbed", 3)
    assert rows("out") == rows("undisturbed")


def test_a_trial_of_another_process_is_neither_taken_nor_counted_twice(tmp_path):
    plan = tiny_plan(tmp_path, SPACE)
    first, second = SweepStudy(plan, Path("out")), SweepStudy(plan, Path("out"))
    owned = first.next_trial(2)
    other = second.next_trial(2)
    assert (owned.trial.number, other.trial.number) == (0, 1)
    assert first.next_trial(2) is None and second.next_trial(2) is None
    owned.release()
    assert second.next_trial(2).trial.number == 0


def test_failed_trials_are_recorded_and_do_not_stop_the_sweep(tmp_path, monkeypatch):
    good = peak_at(1e-3)

    def train(settings, config, *, show_progress):
        if config == "0001":
            raise NonFiniteError("loss = nan", {})
        return good(settings, config, show_progress=show_progress)

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    space = "ppo.batch_size: [32, 128]\nn_envs: [2, 8]"
    sizes = ("ppo.n_steps=32", "ppo.sequence_length=32")
    lines = []
    summary = sweep(tiny_plan(tmp_path, space, *sizes, seeds=2), "out", 12, log=lines.append)
    table = rows("out")
    failed = [row for row in table if row["state"] == "failed"]
    assert summary.failed == len(failed) > 1 and summary.complete + summary.failed == 12
    assert table[1]["error"] == "loss = nan" and table[1]["score"] == "" == table[1]["seed 0"]
    assert any("ppo.batch_size = 128: must be at most ppo.n_steps * n_envs = 64" in row["error"] for row in failed)
    assert sum("failed: " in line for line in lines) == summary.failed


def test_a_sweep_whose_trials_all_fail_says_so(tmp_path, monkeypatch):
    def train(settings, config, *, show_progress):
        raise InputError("env.id = 'x': broken")

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    with pytest.raises(
        InputError, match=r"all 3 trials failed, see trials.csv; the first error is: env.id = 'x': broken"
    ):
        sweep(tiny_plan(tmp_path, SPACE), "out", 3)
    assert [row["state"] for row in rows("out")] == ["failed"] * 3 and not Path("out/best.yaml").exists()


def test_a_training_that_ends_without_a_result_is_repeated_and_then_failed(tmp_path, monkeypatch):
    tries = []

    def train(settings, config, *, show_progress):
        tries.append(config)
        if config == "0000" or len(tries) == 4:
            raise WriteError("disk full")
        return peak_at(1e-3)(settings, config, show_progress=show_progress)

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    summary = sweep(tiny_plan(tmp_path, SPACE), "out", 2)
    assert tries == ["0000"] * 3 + ["0001"] * 2 and (summary.failed, summary.complete) == (1, 1)
    assert "its process ended 3 times without a result" in rows("out")[0]["error"]


def test_hyperband_ends_trials_with_a_worse_learning_curve(tmp_path):
    def value(settings, done):
        return done * (100 - 20 * abs(math.log10(settings.ppo.learning_rate / 1e-3)))

    plan = tiny_plan(tmp_path, SPACE, seeds=2, pruner="hyperband")
    engine = SteppedEngine(value)
    summary = sweep(plan, "out", 18, engine)
    assert summary.complete + summary.pruned == 18 and summary.pruned >= 3
    assert engine.steps < 0.9 * 18 * 2 * 9  # it saves trainings
    pruned = [each for each in study_of("out").trials if each.state is TrialState.PRUNED]
    assert all(0 < each.last_step < 9 for each in pruned)
    assert all(row["score"] == "" for row in rows("out") if row["state"] == "pruned")


def test_wilcoxon_ends_trials_that_are_worse_on_most_seeds(tmp_path):
    summary = sweep(tiny_plan(tmp_path, SPACE, seeds=6, pruner="wilcoxon"), "out", 8)
    assert summary.pruned >= 2
    finished = {
        len(list(Path("out/trials", f"{int(row['trial']):04d}").glob("seed*.json"))): row for row in rows("out")
    }
    assert min(finished) in (4, 5) and max(finished) == 6 and finished[min(finished)]["state"] == "pruned"


def test_an_engine_that_does_not_start_makes_nothing(tmp_path):
    class Unreachable(InProcessEngine):
        def __enter__(self):
            raise InputError("address = 'x': cannot be reached")

    with pytest.raises(InputError, match="cannot be reached"):
        sweep(tiny_plan(tmp_path, SPACE), "out", 1, Unreachable())
    assert not Path("out").exists()


def test_invalid_arguments_are_one_line_and_make_nothing(tmp_path):
    for options, message in {
        (("seeds", 0),): "seeds = 0: must be at least 1",
        (("seeds", 4), ("pruner", "wilcoxon")): "needs at least 5 seeds",
        (("pruner", "hyberband"),): "Did you mean hyperband?",
        (("metric", "bset"),): "Did you mean best?",
        (("minimize", True),): "the direction of --metric last is known",
    }.items():
        with pytest.raises(InputError, match=message):
            tiny_plan(tmp_path, SPACE, **dict(options))
    with pytest.raises(InputError, match="processes = 2: a sweep trains each seed in one process"):
        tiny_plan(tmp_path, SPACE, "processes=2")
    with pytest.raises(InputError, match="trials = 0"):
        sweep(tiny_plan(tmp_path, SPACE), "out", 0)
    assert not Path("out").exists()
