"""Images, videos, figures and histograms as W&B gets them."""

import numpy as np
import pytest
import torch
import wandb
from matplotlib.figure import Figure as MatplotlibFigure
from stable_baselines3.common.logger import Figure, Image, Video

from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking.pages import HtmlPage
from ntm_rl.agents.tracking.wandb_writer import WandbWriter
from tracking_logs import FakeRun


def convert(value):
    run = FakeRun()
    writer = WandbWriter(run)
    writer.write({"x": value}, {"x": ()}, 7)
    writer.close()
    (row,) = run.rows
    assert row.pop(PPO.steps_metric) == 7
    return row.get("x")


@pytest.mark.parametrize(
    ("dataformats", "shape"), [("HWC", (4, 5, 3)), ("CHW", (3, 4, 5)), ("HW", (4, 5)), ("WH", (5, 4))]
)
def test_images_keep_their_axes(dataformats, shape):
    picture = convert(Image(np.arange(np.prod(shape)).reshape(shape).astype(np.uint8), dataformats)).image
    assert picture.size == (5, 4)
    row, column = (1, 2)
    index = {"H": row, "W": column, "C": 0}
    expected = np.arange(np.prod(shape)).reshape(shape)[tuple(index[letter] for letter in dataformats)]
    assert np.asarray(picture)[row, column].flat[0] == expected


def test_float_images_are_in_0_to_1_as_in_tensorboard():
    assert np.asarray(convert(Image(torch.full((2, 2, 3), 0.5), "HWC")).image).flat[0] == 127
    assert len(convert(Image(torch.rand(3, 2, 2, 3), "NHWC"))) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_videos_need_no_extra_encoder(channels):
    (video,) = convert(Video(torch.randint(0, 255, (1, 6, channels, 8, 10), dtype=torch.uint8), fps=10))
    assert isinstance(video, wandb.Video)


def test_figures_histograms_and_numbers():
    assert isinstance(convert(Figure(MatplotlibFigure(), close=True)), wandb.Image)
    assert sum(convert(torch.randn(5, 4)).histogram) == sum(convert(np.arange(20)).histogram) == 20
    assert (convert(2.0), convert(np.float32(0.5)), convert(torch.tensor(3)), convert("text")) == (2.0, 0.5, 3, None)


def test_pages_are_logged_unchanged():
    assert convert(HtmlPage("<p>a page</p>")).html == "<p>a page</p>"
