"""What the functions of the lesson promise."""

from pathlib import Path

import gymnasium as gym
import keras
import numpy as np
import pytest

import run
from support.options import parse_args, read_settings


class Scripted(gym.Env):
    """Episodes of 3, 4, 5, 3, 4, 5, ... steps, -1 each, every second one cut by a time limit."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self):
        self.action_space = gym.spaces.Discrete(3)
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.left = 3 + self.episode % 3
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        over, cut = self.left == 0, self.episode % 2 == 0
        return np.zeros(2, np.float32), -1.0, over and not cut, over and cut, {}


def test_one_hot_encode_has_a_single_one_at_the_action():
    assert np.array_equal(run.one_hot_encode(3, 1), [0, 1, 0])
    assert np.array_equal(run.one_hot_encode(2, [1, 0]), [[0, 1], [1, 0]])


def test_the_network_is_the_articles(model):
    assert [layer.name for layer in model.inputs] == ["observations_input", "action_mask"]
    shapes = [(2, 32), (32,), (32, 32), (32,), (32, 3), (3,)]
    assert [weight.shape for weight in model.get_weights()] == shapes
    assert model.loss == "mean_squared_error"
    assert model.optimizer.global_clipnorm == 1.0
    assert np.isclose(model.optimizer.learning_rate.numpy(), 0.001)


def test_a_mask_chooses_the_q_values_that_the_network_gives(env, model):
    observations = np.array([[-0.5, 0.0], [0.3, 0.05]], np.float32)
    q_values = run.predict(env, model, observations)
    mask = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    assert q_values.shape == (2, 3)
    np.testing.assert_allclose(model.predict([observations, mask], verbose=0), q_values * mask)


def test_the_greedy_action_has_the_highest_q_value(env, model):
    for observation in np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32):
        q_values = run.predict(env, model, observation[None])[0]
        assert run.greedy_action(env, model, observation) == q_values.argmax()
        assert run.epsilon_greedy_action(env, model, observation, epsilon=0) == q_values.argmax()


def test_a_share_epsilon_of_the_actions_is_random(env, model):
    env.action_space.seed(0)
    observation = np.array([-0.5, 0.0], np.float32)
    greedy = run.greedy_action(env, model, observation)
    actions = [run.epsilon_greedy_action(env, model, observation, 0.3) for _ in range(3000)]
    # A random action is the greedy one a third of the time; the standard deviation is 22.
    assert abs(np.sum(np.array(actions) != greedy) - 600) < 5 * 22


def test_the_average_return_is_the_mean_over_completed_episodes(model):
    # 3 + 4 + 5 + 3 steps are four episodes; the fifth is not over after 3 more.
    assert run.evaluate(Scripted(), model, steps=18) == -15 / 4


def test_the_average_return_of_no_completed_episode_is_not_a_number(model):
    assert np.isnan(run.evaluate(Scripted(), model, steps=2))


def test_an_evaluation_with_a_seed_repeats_itself(env, model):
    first, again, other = (
        run.evaluate(gym.make("CartPole-v1"), cart_pole_model(), 500, 0.1, seed)
        for seed in (3, 3, 4)
    )
    assert first == again != other


def cart_pole_model():
    keras.utils.set_random_seed(0)
    return run.create_model(gym.make("CartPole-v1"))


def test_options_default_to_the_constants_and_help_lists_them(capsys):
    args = parse_args(vars(run), [])
    settings = read_settings(vars(run))
    assert len(settings) == 15
    for setting in settings:
        assert getattr(args, setting.name) == getattr(run, setting.name.upper()) == setting.default
    with pytest.raises(SystemExit):
        parse_args(vars(run), ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, default, meaning, _ in settings:
        assert len(meaning) > 10
        assert f"--{name.replace('_', '-')} " in text
        assert f"{meaning} (default: {default})" in text


def lesson(tmp_path, *lines):
    """Global names of a lesson with these lines."""
    names = {"__file__": str(tmp_path / "lesson.py")}
    (tmp_path / "lesson.py").write_text("\n".join([Path(run.__file__).read_text(), *lines]))
    exec("\n".join(lines), names)
    return {**vars(run), **names}


def test_a_constant_that_a_reader_adds_is_an_option(tmp_path, capsys):
    names = lesson(
        tmp_path, "DECAY = 0.5  # what is left, in %", "LAYERS=2  #", "WORD = 'no number'"
    )
    args = parse_args(names, ["--decay", "-0.25"])
    assert (args.decay, args.layers) == (-0.25, 2)
    assert (args.settings["decay"], args.settings["layers"]) == (-0.25, 2)
    with pytest.raises(SystemExit):
        parse_args(names, ["--help"])
    assert "what is left, in % (default: 0.5)" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["SEED = 1", "STATE = 2", "TEST = 3"])
def test_a_constant_named_as_another_option_is_refused(line, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_args(lesson(tmp_path, line), [])
    assert f"{line.split()[0]} can't be a constant" in capsys.readouterr().err


def test_a_constant_edited_to_what_cannot_be_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_args(lesson(tmp_path, "BATCH_SIZE = 0"), [])
    assert "BATCH_SIZE: '0' is no whole number from 1" in capsys.readouterr().err
