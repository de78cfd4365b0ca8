"""Films, read back from their files."""

import numpy as np
import pytest

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.inspection import video as recording
from ntm_rl.agents.inspection.notes import print_once
from ntm_rl.agents.inspection.plotting import pool_slots
from ntm_rl.agents.inspection.video import HEIGHT, PANEL, draw, record
from ntm_rl.agents.runs.run import Run
from ntm_rl.errors import InputError
from small_trainings import TINY_PPO, train_run

iio = pytest.importorskip("imageio.v3")


def train_tiny(folder, config, *overrides) -> Run:
    return train_run(
        config, folder, *TINY_PPO, "ppo.n_steps=16", "ppo.sequence_length=16", "total_timesteps=32", *overrides
    )


@pytest.fixture(scope="module")
def copy_run(tmp_path_factory) -> Run:
    return train_tiny(tmp_path_factory.mktemp("runs"), "algorithmic/copy_ppo")


def test_a_film_has_a_picture_a_step_and_tells_the_returns(copy_run):
    film = record(copy_run, episodes=3, seed=1)
    pictures = iio.imread(film.path)
    assert film.path.parent == copy_run.path / "videos"
    assert len(film.returns) == 3 and len(pictures) == film.steps >= 9  # an episode takes 3 steps and more
    assert pictures.shape[1] == HEIGHT and pictures.shape[2] > PANEL
    assert len(np.unique(pictures[0, :, :-PANEL])) > 1  # the game is there
    assert len(np.unique(pictures[-1, :, -PANEL:])) > 1  # and the panel
    assert [path.name for path in film.path.parent.iterdir()] == [film.path.name]


def test_a_film_that_stops_at_its_limit_says_so(copy_run, tmp_path, capsys):
    film = record(copy_run, tmp_path / "film.mp4", 3, max_steps=2)
    assert film.steps == 2
    assert "note: stopped after 2 steps (max_steps): 0 of 3 episodes ended\n" in capsys.readouterr().err


def test_an_atari_film_shows_the_game_and_ends_at_its_limit(tmp_path):
    run = train_tiny(tmp_path, "atari/pong", "env.kwargs.max_frames=100")
    film = record(run, tmp_path / "pong.mp4")
    assert 20 <= film.steps <= 25 and len(film.returns) == 1  # 100 frames, four a step, some at the start
    assert iio.imread(film.path).shape == (film.steps, HEIGHT, HEIGHT + PANEL, 3)


def test_strips_show_the_weightings_of_each_head_with_the_newest_step_on_the_right():
    first, last, second = np.eye(4, dtype=np.float32)[[0, 3, 1]]
    heads = {"read 1": np.stack([first, last]), "write 1": np.stack([first, second])}
    picture = draw(np.zeros((10, 10, 3), dtype=np.uint8), HEIGHT, ["one line"], heads)
    newest, before = HEIGHT + 8 + recording.HISTORY - 1, HEIGHT + 8 + recording.HISTORY - 2
    top, tall = 32, (HEIGHT - 32) // 2
    bright = [
        [
            int(picture[top + head * tall + 16 : top + (head + 1) * tall - 8, column, 0].argmax() * 4 // (tall - 24))
            for column in (before, newest)
        ]
        for head in range(2)
    ]
    assert bright == [[0, 3], [0, 1]]


@pytest.mark.parametrize(("slots", "rows"), [(3, 3), (8, 8), (9, 5), (1000, 8)])
def test_a_single_slot_of_many_stays_visible(slots, rows):
    pooled = pool_slots(np.eye(slots, dtype=np.float32), 8)
    assert pooled.shape == (slots, rows)
    assert np.array_equal(pooled.argmax(axis=1), np.arange(slots) // -(-slots // 8)) and (pooled.sum(axis=1) == 1).all()


CORES = {
    "ntm": ("memory.ntm.init=tape", "memory.ntm.read_heads=2"),  # its first weightings are learned
    "dnc": (),
    "sam": ("memory.sam.slots=2000",),
    "mann": (),
}


@pytest.mark.parametrize("core", CORES)
def test_the_command_line_films_the_weightings_of_every_core_that_has_some(core, tmp_path, capsys):
    run = train_tiny(tmp_path, "algorithmic/copy_ppo", f"core={core}", *CORES[core])
    assert main(["record", str(run.path), "--out", str(tmp_path / "film.mp4")]) == 0
    assert "no weightings" not in capsys.readouterr().err
    strips = iio.imread(tmp_path / "film.mp4")[-1, recording.TOP :, -PANEL + 8 : -8]
    assert strips.max() > 30  # not black: encoders blur


def test_a_film_of_a_core_without_weightings_says_so(tmp_path, capsys):
    run = train_tiny(tmp_path, "algorithmic/copy_ppo", "core=lstm")
    assert main(["record", str(run.path), "--out", str(tmp_path / "film.mp4")]) == 0
    assert "note: core 'lstm' has no weightings: the video shows none" in capsys.readouterr().err
    assert iio.imread(tmp_path / "film.mp4")[-1, recording.TOP :, -PANEL + 8 : -8].max() < 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes = 0: must be at least 1"),
        ({"out": "film.avi"}, r"film.avi': must end in .mp4"),
        ({"out": "no/film.mp4"}, "no such folder: .*no"),
        ({"best": True}, "no best agent yet"),
    ],
)
def test_bad_input_is_named(copy_run, tmp_path, options, message):
    if "out" in options:
        options = {**options, "out": tmp_path / options["out"]}
    with pytest.raises(InputError, match=message):
        record(copy_run, **options)


def test_a_film_that_exists_is_never_overwritten(copy_run, tmp_path):
    out = tmp_path / "film.mp4"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists already; choose another name or delete it"):
        record(copy_run, out)
    assert out.read_bytes() == b"mine"


def test_a_folder_without_permission_is_one_line_with_code_3(copy_run, tmp_path, capsys, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "/tmp/.video-fekrvqz8")

    monkeypatch.setattr(recording, "TemporaryDirectory", denied)  # after the first check
    assert main(["record", str(copy_run.path), "--out", str(tmp_path / "film.mp4")]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == f"{tmp_path}/film.mp4: cannot be written: Permission denied"


def test_a_film_that_breaks_off_leaves_nothing(copy_run, tmp_path, monkeypatch):
    def broken(*_):
        for _ in range(20):
            yield np.zeros((HEIGHT, HEIGHT, 3), dtype=np.uint8)
        raise RuntimeError("the emulator died")

    monkeypatch.setattr(recording, "draw_steps", broken)
    with pytest.raises(RuntimeError, match="died"):
        record(copy_run, tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_their_remedy(copy_run, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(recording, "import_module", missing)
    with pytest.raises(InputError, match=r'pip install "ntm-rl\[video\]"'):
        record(copy_run)


def test_the_observation_is_drawn_where_the_environment_does_not_render(tmp_path, capsys):
    run = train_tiny(tmp_path, "popgym/repeat_previous_easy")
    print_once.cache_clear()
    images = iio.imread(record(run, tmp_path / "film.mp4").path)
    assert "the observations are shown" in capsys.readouterr().err
    assert len(images) == 51 and len(np.unique(images[0, :, :-PANEL])) > 3
