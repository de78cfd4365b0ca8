"""Storages of sweeps: journals that killed processes leave behind, and refused ones."""

import json
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.trial import TrialState

from ntm_rl.agents.sweeps.storage import describe_storage, open_storage
from ntm_rl.errors import InputError

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name="s", storage=open_storage(str(path), Path()), load_if_exists=True)


@pytest.mark.parametrize("dropped", [1, 5])
def test_a_partial_last_entry_of_a_killed_process_is_dropped(dropped):
    path = Path("journal.log")
    first = study(path)
    first.tell(first.ask(), 1.0)
    first.ask()
    whole = path.read_bytes()
    path.write_bytes(whole[:-dropped])
    second = study(path)
    second.tell(second.ask(), 2.0)
    assert [json.loads(line) for line in path.read_bytes().splitlines()][-1]  # each line is a whole entry
    states = [trial.state for trial in study(path).get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE]


def test_an_entry_waits_for_the_lock_of_no_ended_process():
    path = Path("journal.log")
    study(path)
    Path("journal.log.flock").touch()  # left behind by a process that was killed
    study(path).ask()  # Optuna's own lock would wait for 30 seconds
    assert len(study(path).trials) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"SQLite format 3\0", "not a journal of Optuna"),
        (b'{"op_code":\n', "a damaged journal"),
        (b"\xff", "not a journal"),
    ],
)
def test_another_file_is_refused_and_unchanged(content, message):
    path = Path("file")
    path.write_bytes(content + b"{}\n")
    with pytest.raises(InputError, match=message):
        open_storage("file", Path())
    assert path.read_bytes() == content + b"{}\n"


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sqlite:/x.db", "SQLite loses trials"),
        ("sqlite:x.db", "SQLite loses trials"),
        ("postgresql:/me:secret@host/x", "must be a file or postgresql://"),
        ("x.db", "is made as a journal, not as a database; name it x.log"),
        ("missing/journal.log", "missing' is no folder; make it first"),
    ],
)
def test_a_mistyped_storage_is_refused_and_makes_nothing(storage, message):
    with pytest.raises(InputError, match=message) as caught:
        open_storage(storage, Path())
    assert "secret" not in str(caught.value) and not list(Path().iterdir())


def test_descriptions_have_no_passwords_and_absolute_paths(tmp_path):
    assert describe_storage(None, tmp_path) == str(tmp_path / "journal.log")
    assert describe_storage("a/b.log", tmp_path) == str(Path("a/b.log").absolute())
    assert describe_storage("postgres://me:secret@host/x", tmp_path) == "postgres://***@host/x"


def test_a_sweep_opens_in_the_dashboard():
    dashboard = pytest.importorskip("optuna_dashboard")
    study(Path("journal.log")).ask()
    answers: list[str] = []
    environ = {"PATH_INFO": "/api/studies"}
    setup_testing_defaults(environ)
    app = dashboard.wsgi(open_storage("journal.log", Path()))
    body = b"".join(app(environ, lambda status, headers, exc_info=None: answers.append(status)))
    assert answers == ["200 OK"] and json.loads(body)["study_summaries"][0]["study_name"] == "s"
