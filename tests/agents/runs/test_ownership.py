"""A run's folder: one owner, one identity, a record of changes, no links followed, no code of others run unasked."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from command_line import as_json, refused
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.runs import ownership, trust
from ntm_rl.agents.runs.ownership import owned
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.yaml_text import plain, read_yaml
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import StorageError, WriteError
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.errors import InputError
from small_trainings import TINY_COPY, TINY_LSTM, TINY_PPO

SMALL = (*TINY_PPO, *TINY_LSTM, "total_timesteps=64", "env.id=CartPole-v1")
COPY = (*TINY_COPY, *TINY_LSTM, "total_sequences=20", "log_every=5", "validation.every=100", "checkpoint.every=10")

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def train(capsys, config: str = "popgym/repeat_previous_easy", small: Sequence[str] = SMALL) -> Path:
    return Path(as_json(capsys, "train", config, *small)["run"]).resolve()


def made(env_id: str = "CartPole-v1") -> Run:
    return Run.create(load_settings("popgym/repeat_previous_easy", [*SMALL, f"env.id={env_id}"]), "task")


def param_group(run: Path) -> dict:
    return read_tensors(latest_checkpoint(run / "checkpoints"))[1]["param_groups"][0]


@pytest.fixture
def busy_run():
    """A run that another process owns, and that process."""
    run = made()
    code = "import sys; from pathlib import Path; from ntm_rl.agents.runs.ownership import owned\n"
    code += "with owned(Path(sys.argv[1])): print('ready', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield run, process
        process.kill()


def test_a_second_training_is_refused_with_process_and_host_until_the_first_is_gone(busy_run, capsys):
    run, process = busy_run
    line = refused(capsys, "resume", str(run.path))
    assert f"is being trained by process {process.pid} on host {os.uname().nodename}" in line
    assert run.settings().total_timesteps == 64  # others may read meanwhile
    process.kill()
    process.wait()
    assert (run.path / "owner.json").exists()  # what a killed process leaves does not block
    with owned(run.path):
        assert json.loads((run.path / "owner.json").read_text())["pid"] == os.getpid()
    assert not (run.path / "owner.json").exists()


def test_the_owner_is_gone_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), owned(tmp_path):
        raise RuntimeError
    with owned(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on host"), owned(tmp_path):
        pass


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ({"pid": os.getppid(), "host": os.uname().nodename}, "is being trained by process"),
        ({"pid": 5, "host": "elsewhere"}, r"process 5 on host elsewhere.*delete .*owner\.json"),
        ({"pid": 2**22 + 5, "host": os.uname().nodename}, None),
        ("nonsense", None),
        ({"pid": "x"}, None),
    ],
)
def test_without_locks_the_process_that_the_file_names_decides(tmp_path, monkeypatch, owner, message):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / "owner.json").write_text(json.dumps(owner))
    if message is None:
        with owned(tmp_path):
            assert ownership._owner(os.open(tmp_path / "owner.json", os.O_RDONLY))["pid"] == os.getpid()
        return
    with pytest.raises(InputError, match=message), owned(tmp_path):
        pass


def test_one_folder_is_one_run_however_its_path_is_written(tmp_path, monkeypatch):
    run = made()
    (tmp_path / "link").symlink_to(run.path)
    monkeypatch.setenv("HOME", str(run.path.parent))
    ways = [f"{run.path}/", os.path.relpath(run.path), "link", f"~/{run.path.name}", f"{run.path}/../{run.path.name}/."]
    assert {Run.open(way).path for way in ways} == {run.path}
    monkeypatch.chdir(run.path)
    assert Run.open(".").path == run.path
    (run.path / "below").mkdir()
    monkeypatch.chdir("below")
    assert Run.open("..").path == run.path


@pytest.mark.parametrize("way", [".", "..", "NAME/"])
def test_a_resume_goes_on_with_the_same_wandb_run(way, monkeypatch, capsys):
    offline = [*SMALL, "wandb=offline"]
    run = train(capsys, small=offline)
    (run / "below").mkdir()
    monkeypatch.chdir({".": run, "..": run / "below", "NAME/": run.parent}[way])
    assert main(["resume", way.replace("NAME", run.name), "total_timesteps=128"]) == 0
    names = {path.stem for path in run.glob("wandb/offline-run-*/run-*.wandb")}
    assert names == {f"run-{run.parent.name}-{run.name}"}


def test_overrides_of_a_resume_take_effect_and_are_kept_and_recorded(capsys):
    run = train(capsys)
    told = ["total_timesteps=192", "ppo.learning_rate=1e-5", "ppo.adam_epsilon=0.01", "checkpoint.every=64"]
    assert main(["resume", str(run), *told]) == 0
    group = param_group(run)
    assert (group["lr"], group["eps"]) == (1e-5, 0.01)
    settings = Run.open(run).settings()
    assert (settings.total_timesteps, settings.ppo.learning_rate, settings.checkpoint.every) == (192, 1e-5, 64)
    (entry,) = plain(read_yaml((run / "config.history.yaml").read_text()))
    assert entry["step"] == 64
    assert entry["changes"]["total_timesteps"] == {"from": 64, "to": 192}
    assert entry["changes"]["ppo.adam_epsilon"] == {"from": 1e-5, "to": 0.01}
    assert main(["resume", str(run), "total_timesteps=256"]) == 0
    assert param_group(run)["eps"] == 0.01
    assert len(plain(read_yaml((run / "config.history.yaml").read_text()))) == 2


@pytest.mark.parametrize("name", ["rmsprop", "sgd", "adam"])
def test_a_supervised_resume_takes_its_optimizers_settings(name, capsys):
    run = train(
        capsys, "algorithmic/copy", [*COPY, f"optimizer.name={name}", "optimizer.learning_rate_schedule=linear"]
    )
    told = ["optimizer.learning_rate_schedule=constant", "optimizer.learning_rate=1e-3", "optimizer.l2=0.1"]
    assert main(["resume", str(run), "total_sequences=40", "optimizer.momentum=0.5", *told]) == 0
    group = param_group(run)
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.1)
    assert name == "adam" or group["momentum"] == 0.5
    rates = [float(row["train/learning_rate"]) for row in read_table(run / "progress.csv")[1]]
    assert rates[:4] == sorted(rates[:4], reverse=True) and rates[4:] == [1e-3] * 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("core=ntm", "core = 'ntm': the run's weights were made with the old value"),
        ("memory.lstm.hidden_size=12", "memory.lstm.hidden_size = 12: the run's weights were made with the old value"),
        ("policy.activation=ReLU", "policy.activation = 'ReLU': the run's weights"),
        ("policy.net_arch=[8]", "policy.net_arch.pi = [8]: the run's weights"),
        ("seed=5", "seed = 5: a resumed training uses the random states of its checkpoint"),
        ("run_dir=elsewhere", "run_dir = 'elsewhere': a run stays in its folder"),
        ("total_timesteps=10", "total_timesteps = 10: must be more than the 64 of the run so far"),
        ("env.id=Acrobot-v1", "env.id = 'Acrobot-v1': the run's checkpoint does not fit"),
        ("env.normalize_observation=true", "env.normalize_observation = True: the run's checkpoint does not fit"),
        ("ppo.n_steps=33", "ppo.sequence_length = 32: must divide ppo.n_steps = 33"),
        ("nonsense", "must be key=value"),
    ],
)
def test_an_override_without_effect_is_refused_and_changes_nothing(trained, capsys, override, message):
    before = (trained / "config.yaml").read_bytes()
    assert main(["resume", str(trained), override]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err and printed.out == ""
    assert (trained / "config.yaml").read_bytes() == before and not (trained / "config.history.yaml").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", "popgym/repeat_previous_easy", *SMALL, f"run_dir={folder}"]) == 0
    (run,) = folder.glob("*/*/*")
    return run


def test_a_device_that_is_not_here_can_be_replaced_on_a_resume(capsys):
    run = train(capsys)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("device: auto", "device: cuda:77"))
    assert main(["resume", str(run), "device=cpu", "total_timesteps=128"]) == 0


def damage_csv(run: Path) -> None:
    (run / "progress.csv").write_text("a,time/total_timesteps\n1,2\n3,many\n")


def damage_table(run: Path) -> None:
    (run / "progress.csv").write_text("a,b\n1,2,3\n")


def damage_events(run: Path) -> None:
    (run / "tensorboard" / "events.out.tfevents.9").write_bytes(b"\x04" + bytes(11) + b"\xff" * 4 + bytes(4))


def damage_history(run: Path) -> None:
    (run / "config.history.yaml").write_text("a: [")


@pytest.mark.parametrize("damage", [damage_csv, damage_table, damage_events, damage_history])
def test_a_resume_refused_for_a_damaged_file_changes_nothing(trained, tmp_path, capsys, damage):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    damage(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "move it away" in refused(capsys, "resume", str(run), "total_timesteps=128")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


LINKS = [
    *("progress.csv", "config.yaml", "config.history.yaml", "owner.json", "origin.json", "wandb/sent_steps"),
    *("checkpoints", "tensorboard", "agent", "best", "wandb"),
    *("tensorboard/events.out.tfevents.1.x", "agent/card.json", "checkpoints/step-000000009999.safetensors"),
]


@pytest.mark.parametrize("name", LINKS)
def test_no_training_writes_through_a_link(name, tmp_path, capsys):
    run = made()
    victim = tmp_path / "victim"
    if "." not in name and "/" not in name:
        victim.mkdir()
    else:
        victim.write_bytes((run.path / name).read_bytes() if name == "config.yaml" else b"precious")
    place = run.path / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(victim)
    before = list(victim.iterdir()) if victim.is_dir() else victim.read_bytes()
    assert f"{place}: a link to {victim}" in refused(capsys, "resume", str(run.path))
    assert (list(victim.iterdir()) if victim.is_dir() else victim.read_bytes()) == before


@pytest.mark.parametrize("command", ["record", "inspect"])
def test_no_picture_is_written_through_a_link(command, trained, tmp_path, capsys):
    folder, victim = trained / {"record": "videos", "inspect": "figures"}[command], tmp_path / "victim"
    victim.mkdir()
    folder.symlink_to(victim)
    try:
        assert f"{folder}: a link to {victim}" in refused(capsys, command, str(trained))
    finally:
        folder.unlink()
    assert not list(victim.iterdir())


def test_a_pipe_in_a_run_is_not_waited_for(capsys):
    run = made()
    os.mkfifo(run.path / "progress.csv")
    assert "progress.csv: not a regular file" in refused(capsys, "resume", str(run.path))


def test_wandbs_own_links_are_no_reason_to_refuse():
    run = made()
    (run.path / "wandb").mkdir()
    (run.path / "wandb" / "latest-run").symlink_to("offline-run-1")
    with run.owned():
        pass


MODULE = "gymnasium:CartPole-v1"


@pytest.mark.parametrize("command", ["evaluate", "record", "resume", "inspect"])
def test_a_run_of_others_imports_nothing_unasked(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('the code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    run = made("hostile_module:CartPole-v1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of another user"))
    line = refused(capsys, command, str(run.path))
    assert "it imports module 'hostile_module'" in line and line.endswith("add --trust")


def test_a_run_of_ones_own_is_trusted_wherever_it_lies_and_others_by_their_option(capsys, monkeypatch, tmp_path):
    run = made(MODULE)
    run.require_trust(trust=False)
    moved = run.path.rename(tmp_path / "moved")
    Run.open(moved).require_trust(trust=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of another user"))
    with pytest.raises(InputError, match="was not made by you"):
        Run.open(moved).require_trust(trust=False)
    Run.open(moved).require_trust(trust=True)


def test_a_changed_module_is_no_longer_trusted(capsys):
    run = made(MODULE)
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace(MODULE, "other_module:CartPole-v1"))
    assert "imports module 'other_module'" in refused(capsys, "evaluate", str(run.path))


def test_a_module_that_the_user_names_on_a_resume_is_trusted_from_then_on(capsys):
    run = train(capsys)
    assert main(["resume", str(run), f"env.id={MODULE}", "total_timesteps=128"]) == 0
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0


def test_ordinary_runs_need_no_key(tmp_path):
    assert not (made().path / "origin.json").exists() and not (tmp_path / "config").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"digest": 3}', '{"digest": "é"}', "[" * 5000])
def test_no_forged_origin_is_believed(text, capsys):
    run = made(MODULE)
    (run.path / "origin.json").write_text(text)
    assert "add --trust" in refused(capsys, "evaluate", str(run.path))


def test_the_key_is_this_users_alone_and_a_home_that_cannot_keep_it_is_a_warning(tmp_path, monkeypatch):
    made(MODULE)
    key = tmp_path / ".config" / "ntm-rl" / "key"
    assert key.stat().st_mode & 0o077 == 0 and len(key.read_bytes()) == trust.KEY_BYTES
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nowhere")
    with pytest.warns(UserWarning, match="cannot be made"):
        made(MODULE)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ownership.os, "open", refused)
    with pytest.raises(StorageError, match=r"owner\.json: cannot be written: Permission denied"), owned(tmp_path):
        pass


def test_the_command_that_a_stopped_training_names_goes_on():
    run = made().path
    again = [sys.executable, "-m", "ntm_rl", "resume", str(run), "total_timesteps=100000000", "checkpoint.every=64"]
    process = subprocess.Popen(again, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not list(run.glob("checkpoints/step-*")):
        assert process.poll() is None
    process.terminate()
    out, _ = process.communicate(timeout=120)
    assert (
        f"Next: ntm-rl resume {os.path.relpath(run)}" in out and Run.open(run).settings().total_timesteps == 100_000_000
    )


class Silent:
    """A W&B run that takes everything."""

    def __getattr__(self, name):
        return lambda *_, **__: None


def test_pictures_leave_alone_up_to_where_wandb_has_the_rows(monkeypatch):
    run = made()
    (run.path / "wandb").mkdir()
    monkeypatch.setattr("ntm_rl.agents.tracking.wandb_writer.wandb.init", lambda **_: Silent())
    settings = load_settings(str(run.config_file), ["wandb=offline"])
    for is_training, expected in ((False, False), (True, True)):
        writer = run.track(settings, is_training=is_training)
        writer.write({"a": 1.0}, {"a": ()}, 1000)
        writer.close()
        assert (run.path / "wandb" / "sent_steps").exists() is expected


def test_a_file_where_a_run_keeps_a_folder_is_named_with_the_way_out():
    run = made()
    (run.path / "videos").write_text("")
    with pytest.raises(WriteError, match="videos: must be a folder but is a file; move it away"):
        run.make_folder("videos")
