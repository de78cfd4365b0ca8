"""Closed, full and limited streams, early interrupts, warnings, and passwords in messages."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ntm_rl.agents.cli import terminal
from ntm_rl.agents.cli.exit_codes import CANNOT_WRITE
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.cli.terminal import OutputClosedError, print_lines
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.settings.environment_variables import check_environment_variables, without_passwords
from ntm_rl.agents.tracking import wandb_run as tracking
from ntm_rl.envs import factory
from ntm_rl.errors import InputError
from waiting import wait_until

COMMAND = f"{sys.executable} -m ntm_rl"


def shell(script: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=120)


def test_results_go_to_standard_output_if_standard_error_is_closed():
    printed = shell(f"{COMMAND} list cores --json 2>&-; echo $?")
    cores, code = printed.stdout.splitlines()
    assert cores.startswith('["ntm", "ntm_block"') and code == "0"


def test_a_closed_pipe_is_no_error_but_a_full_disk_is():
    printed = shell(f"{COMMAND} list envs | head -1; echo ${{PIPESTATUS[0]}}; {COMMAND} list envs >/dev/full; echo $?")
    assert printed.stdout.splitlines()[1:] == ["0", str(CANNOT_WRITE)]
    (line,) = printed.stderr.splitlines()
    assert line == "standard output, or a file: No space left on device"


def test_control_and_formatting_characters_are_escaped(capsys):
    print_lines("a\u202eb\x1b[31m", "tab\tand é")
    assert capsys.readouterr().out == "a\\u202eb\\x1b[31m\ntab\tand é\n"
    assert main(["show", "no\u202esuch"]) != 0
    assert "\u202e" not in capsys.readouterr().err
    text = terminal._one_line(UserWarning("a\u202e\nb"), UserWarning, terminal.__file__, 1)
    assert text == "warning: a\\u202e b\n"


class Broken:
    """A stream whose other end is gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = fileno = isatty = write


def test_only_a_closed_standard_output_ends_a_command_silently(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(OutputClosedError):
        print_lines("x")

    def environment_fails():
        raise BrokenPipeError(32, "an environment's pipe")

    monkeypatch.setattr("ntm_rl.agents.cli.list_names._cores", environment_fails)
    with pytest.raises(BrokenPipeError, match="an environment's pipe"):
        main(["list", "cores"])


def test_errors_of_standard_error_are_ignored(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken())
    assert main(["list", "nothing"]) == 2
    assert isinstance(sys.stderr, Broken)


def test_characters_missing_in_the_encoding_are_escaped(monkeypatch, tmp_path):
    code = "from ntm_rl.agents.cli.terminal import *\nwith usable_streams(): print_lines('9 ± 1', '\\udcff')"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True
    )
    assert printed.stdout == b"9 \\xb1 1\n\\udcff\n"


def test_streams_closed_before_the_start_are_redirected_to_the_null_device(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(terminal.os, "dup2", lambda *_: None)  # pytest's own is open
    with terminal.usable_streams():
        print("lost", file=sys.stderr)
    sys.stderr.close()


def has_loaded(process: subprocess.Popen, library: str) -> bool:
    return library in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize("library", ["_multiarray_umath", "libtorch_cpu"])
def test_ctrl_c_while_libraries_are_imported_is_one_line(library):
    command = [sys.executable, "-m", "ntm_rl", "list", "cores"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: has_loaded(process, library))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "interrupted\n"
    assert process.returncode == 128 + signal.SIGINT


def test_ctrl_c_at_the_beginning_of_a_training_leaves_a_checkpoint(tmp_path):
    arguments = ["train", "popgym/repeat_previous_easy", f"run_dir={tmp_path}", "wandb=disabled"]
    command = [sys.executable, "-m", "ntm_rl", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_until(lambda: list(tmp_path.glob("*/*/*/config.yaml")))
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in error
    (run,) = tmp_path.glob("*/*/*")
    assert list((run / "checkpoints").glob("step-*"))


def test_a_signal_received_by_an_outer_listener_counts_for_the_inner_one():
    with SignalListener() as outer:
        os.kill(os.getpid(), signal.SIGTERM)
        with SignalListener() as inner:
            assert outer.received is inner.received is signal.SIGTERM


def test_a_hangup_stays_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalListener() as listener:
            signal.raise_signal(signal.SIGHUP)
        assert listener.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (terminal.__file__, "warning: two lines\n"),
        (factory.__file__, "warning: two lines\n"),
        ("/home/me/coin.py", "warning: two lines (UserWarning at /home/me/coin.py:7)\n"),
    ],
)
def test_a_warning_is_one_line_and_names_the_source_of_foreign_code(file, shown):
    before = warnings.formatwarning
    with terminal.usable_streams():
        assert warnings.formatwarning(UserWarning("two\nlines"), UserWarning, file, 7) == shown
    assert warnings.formatwarning is before


URL = "http://user:hunter2@127.0.0.1:9"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (URL, "http://***@127.0.0.1:9"),
        ("https://token@host/x and https://a:b@host", "https://***@host/x and https://***@host"),
        ("https://api.wandb.ai/a@b", "https://api.wandb.ai/a@b"),
        ("https://user:p@ss:word@host/", "https://***@host/"),
        ("HTTPConnectionPool(host='x'): '//u:p@h'", "HTTPConnectionPool(host='x'): '//***@h'"),
    ],
)
def test_passwords_in_addresses_are_not_shown(text, shown):
    assert without_passwords(text) == shown


def test_no_warning_and_no_error_shows_a_password(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_BASE_URL", "user:hunter2@example.org")
    with pytest.raises(InputError) as caught:
        check_environment_variables()
    assert "hunter2" not in str(caught.value) and "example.org" in str(caught.value)
    monkeypatch.setattr(tracking, "_has_login", lambda: True)
    monkeypatch.setattr(tracking, "_server", lambda: URL)
    monkeypatch.setattr(tracking.wandb, "init", lambda **_: (_ for _ in ()).throw(RuntimeError(f"no {URL}/graphql")))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert tracking.start_wandb(tmp_path, {}, mode="online", project="p") is None
    messages = [str(each.message) for each in told]
    assert len(messages) == 2 and all("***@127.0.0.1" in each and "hunter2" not in each for each in messages)
