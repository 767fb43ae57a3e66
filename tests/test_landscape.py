"""What the landscape draws is what the network says and the car does."""

import os

import gymnasium as gym
import matplotlib
import numpy as np
import pytest
from conftest import ROOT
from matplotlib import pyplot as plt
from PIL import Image
from test_experiments import exit_status_of

import run
from experiments import landscape, mountains
from experiments.common.trained_policies import load_policy, play_episode
from support.snapshots import write_snapshot


class Walk(gym.Env):
    """Two numbers without bounds, four actions, and no end."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([5.0, 100.0], np.float32)
        return self.place, {}

    def step(self, action):
        self.place = self.place + np.float32([0, 1])
        return self.place, 1.0, False, False, {}


gym.register("Walk-v0", Walk)
gym.register("MountainHill-v0", "gymnasium.envs.classic_control.mountain_car:MountainCarEnv")


def drawn(monkeypatch, *arguments):
    """The figure that the program draws."""
    figures = []
    monkeypatch.setattr(landscape, "save_figure", lambda figure, _: figures.append(figure))
    assert exit_status_of(landscape, *arguments, "--plot", "x.png") == 0
    return figures[0]


def test_the_colours_are_what_predict_gives_there(env, rolling, monkeypatch):
    figure = drawn(monkeypatch, "rolling-0.h5", "untrained-0.h5")
    above, below = (panel.get_images()[0] for panel in (figure.axes[0], figure.axes[2]))
    assert above.get_extent() == pytest.approx([-1.2, 0.6, -0.07, 0.07])
    assert above.origin == below.origin == "lower"
    rng = np.random.default_rng(0)
    for column, row in rng.integers(0, landscape.POINTS, (20, 2)):
        position = -1.2 + 1.8 * (column + 0.5) / landscape.POINTS
        velocity = -0.07 + 0.14 * (row + 0.5) / landscape.POINTS
        q_values = run.predict(env, rolling, np.array([[position, velocity]], np.float32))[0]
        assert above.get_array()[row, column] == pytest.approx(q_values.max(), rel=1e-4)
        assert below.get_array()[row, column] == q_values.argmax() == (2 if velocity > 0 else 0)


def test_all_snapshots_share_one_scale_of_colours(rolling, monkeypatch):
    figure = drawn(monkeypatch, "rolling-0.h5", "untrained-0.h5")
    (scale,) = {panel.get_images()[0].get_clim() for panel in figure.axes[:2]}
    assert scale[0] < scale[1] == 0


def test_the_episode_is_the_first_of_an_evaluation_with_that_seed(env, rolling, capsys):
    assert exit_status_of(landscape, "rolling-0.h5", "--plot", "x.png", "--seed", 7) == 0
    _, printed = capsys.readouterr().out.split("return ")
    episode_return, steps = float(printed.split()[0]), int(printed.split()[2])
    assert -200 < episode_return == -steps
    run.EVAL_STEPS = steps
    assert run.evaluate(env, rolling, seed=7) == (episode_return, 1)
    episode = list(play_episode(env, load_policy("rolling-0.h5").act, 7))
    assert len(episode) == steps + 1
    (start, *_), (end, played, terminated, _) = episode[0], episode[-1]
    assert (played, terminated) == (episode_return, True)
    assert start[0] == env.reset(seed=7)[0][0]
    assert end[0] >= env.unwrapped.goal_position


def test_the_picture_names_snapshots_returns_and_actions(rolling, monkeypatch):
    figure = drawn(monkeypatch, "rolling-0.h5", "untrained-0.h5")
    assert figure.axes[0].get_title().startswith("rolling-0.h5\nreturn -1")
    assert figure.axes[1].get_title() == "untrained-0.h5\nreturn -200"
    labels = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert labels[:3] == ["push left", "no push", "push right"]
    assert "flag" in labels


def test_a_network_that_expects_the_impossible_is_drawn(env, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.set_weights([weight * 0 + 1 for weight in model.get_weights()])  # all Q-values above 0
    write_snapshot("hope-0.h5", model)
    assert exit_status_of(landscape, "hope-0.h5", "--plot", "x.png") == 0


def test_the_optimum_is_drawn_beside_the_snapshots(rolling, monkeypatch):
    monkeypatch.setattr(landscape, "OPTIMUM_POINTS", 50)
    figure = drawn(monkeypatch, "rolling-0.h5", "--optimum")
    assert figure.axes[1].get_title().startswith("optimum\nreturn -1")
    values = figure.axes[1].get_images()[0].get_array()
    behind = round(landscape.POINTS * 1.75 / 1.8)  # position 0.55, behind the flag
    assert values[-1, behind] == -1 and values[landscape.POINTS // 2, 70] < -50


@pytest.mark.slow
def test_the_picture_is_small(rolling, tmp_path):
    names = ["rolling-0.h5", "untrained-0.h5"] * 2
    assert exit_status_of(landscape, *names, "--plot", "a.png") == 0
    assert (tmp_path / "a.png").stat().st_size < 150_000
    with Image.open("a.png") as image:
        assert image.width <= 1440 and image.height <= 720


def test_any_two_numbers_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "EVAL_STEPS", 50)
    walk = gym.make("Walk-v0")
    write_snapshot("walk-0.h5", run.create_model(walk))
    figure = drawn(monkeypatch, "walk-0.h5", "--env", "Walk-v0")
    x, y = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert x == (4, 6)  # the first number stays at 5
    assert y == (95, 155)  # the second goes from 100 to 150
    assert figure.axes[1].get_legend().get_texts()[3].get_text() == "action 3"


def test_any_name_of_a_file_will_do(rolling, tmp_path):
    name = os.fsdecode(b"$x_1$\n\xff.h5")
    os.rename("rolling-0.h5", name)
    assert exit_status_of(landscape, name, "--plot", "x.svg") == 0
    assert (tmp_path / "x.svg").read_bytes().startswith(b"<?xml")
    assert exit_status_of(mountains, name, "--save", "x.csv", "--episodes", 1) == 0
    assert exit_status_of(mountains, "x.csv") == 0


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["rolling-0.h5", "--env", "CartPole-v1"], "the network for this environment has"),
        (["pole-0.h5"], "pole-0.h5: the observations of CartPole-v1 have 4 numbers; only 2"),
        (["rolling-0.h5", "hill-0.h5"], "draw them separately"),
        (["hill-0.h5", "--optimum"], "--optimum is known for MountainCar-v0 only"),
        (["rolling-0.h5", "short-0.h5", "--optimum"], "the discount factor 0.9, and"),
        (["rolling-0.h5", "--env", "Nothing-v0"], "--env Nothing-v0"),
        (["rolling-0.h5", "none.h5"], "there is no file none.h5"),
        (["text.h5"], "text.h5 is not a readable snapshot"),
        (["rolling-0.h5"] * 9, "9 snapshots don't fit side by side"),
        (["rolling-0.h5", "--seed", "-1"], "must be an integer between 0 and 4294967295, not '-1'"),
        (["rolling-0.h5", "--plot", "x.pdf"], "must be a .png or .svg file"),
        (["rolling-0.h5", "--plot", "none/x.png"], "in a directory that can be written to"),
    ],
)
def test_wrong_input_is_one_line(arguments, problem, rolling, tmp_path, capsys):
    (tmp_path / "text.h5").write_text("weights")
    pole = run.create_model(gym.make("CartPole-v1"))
    write_snapshot("pole-0.h5", pole, {"env": "CartPole-v1"})
    write_snapshot("hill-0.h5", rolling, {"env": "MountainHill-v0"})
    write_snapshot("short-0.h5", rolling, {"discount_factor_gamma": 0.9})
    before = sorted(tmp_path.iterdir())
    assert exit_status_of(landscape, "--plot", "x.png", *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and problem in errors
    assert sorted(tmp_path.iterdir()) == before


def test_without_plot_it_opens_a_window(rolling, monkeypatch):
    shown = []
    monkeypatch.setattr(landscape, "can_show", lambda: True)
    monkeypatch.setattr(plt, "show", lambda: shown.extend(map(plt.figure, plt.get_fignums())))
    assert exit_status_of(landscape, "rolling-0.h5") == 0
    assert shown[0].axes[0].get_title().startswith("rolling-0.h5")
    plt.close("all")


def test_nothing_that_it_imports_rules_out_a_window():
    for file in (ROOT / "experiments").rglob("*.py"):
        assert "matplotlib.use(" not in file.read_text()  # which would hold for all programs


def test_without_a_display_it_says_to_use_plot(rolling, monkeypatch, capsys):
    matplotlib.use("Agg")
    assert exit_status_of(landscape, "rolling-0.h5") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "--plot landscape.png" in errors
