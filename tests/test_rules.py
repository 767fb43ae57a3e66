"""What people bring: wrapped environments train, and one that breaks a rule is told which."""

import warnings

import gymnasium as gym
import numpy as np
import pytest

import run
from support.checkpoints import read_checkpoint
from support.environments import make_env, why_not_drawn
from support.errors import WrongInput

SHORT = (
    "--name x --seed 1 --train-start 50 --batch-size 8 --q-validation-size 100 --eval-every 300 "
    "--eval-steps 450 --max-steps 450 --checkpoint-every 150"
).split()


class Torques(gym.ActionWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(5)

    def action(self, action):
        return np.array([action - 2.0], np.float32)


class CountsFromOne(gym.ActionWrapper):
    """Like a grid world whose actions begin at 1."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(3, start=1)

    def action(self, action):
        return action - 1


class TwoRewards(gym.Wrapper):
    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, np.array([reward, abs(observation[1])]), terminated, truncated, info


class Summed(gym.Wrapper):
    def step(self, action):
        observation, rewards, terminated, truncated, info = self.env.step(action)
        return observation, float(rewards.sum()), terminated, truncated, info


class Dictionary(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Dict(car=env.observation_space)

    def observation(self, observation):
        return {"car": observation}


def mountain_car(*wrappers):
    """A function that makes Mountain Car in wrappers."""

    def make(**options):
        env = gym.make("MountainCar-v0", **options)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make


def one_coordinate(env):
    space = gym.spaces.Box(env.observation_space.low[:1], env.observation_space.high[:1])
    return gym.wrappers.TransformObservation(env, lambda observation: observation[:1], space)


def from_zero(env):
    return gym.wrappers.TransformAction(env, lambda n: n + 1, gym.spaces.Discrete(3))


WRAPPED = {
    "Flat-v0": lambda **options: gym.wrappers.FlattenObservation(
        gym.make("FrozenLake-v1", **options)
    ),
    "FlatDictionary-v0": mountain_car(Dictionary, gym.wrappers.FlattenObservation),
    "Torques-v0": lambda **options: Torques(gym.make("Pendulum-v1", **options)),
    "Aware-v0": mountain_car(gym.wrappers.TimeAwareObservation),
    "OneCoordinate-v0": mountain_car(one_coordinate),
    "FromZero-v0": mountain_car(CountsFromOne, from_zero),
    "Summed-v0": mountain_car(TwoRewards, Summed),
}


@pytest.fixture
def register(monkeypatch):
    """Registers an environment under a name for the time of the test."""

    def add(name, make, **options):
        spec = gym.envs.registration.EnvSpec(name, make, **options)
        monkeypatch.setitem(gym.registry, name, spec)

    return add


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_environment_trains_and_is_resumed_played_and_drawn(name, register, command):
    register(name, WRAPPED[name])
    options = [*SHORT, "--eval-steps", 210, "--max-steps", 310, "--snapshot-every", 310]
    assert command("--env", name, *options)[::2] == (0, "")
    assert command("--resume", "x", "--max-steps", 400)[::2] == (0, "")
    evaluated = read_checkpoint("x-log")["run"]["evaluations"][-1][1]
    play = ["--model", "x-log/x-400.h5", "--seed", 1]
    status, output, errors = command(*play, "--eval", "--eval-steps", 210)
    assert (status, errors) == (0, "")
    if np.isfinite(evaluated):
        assert f"episode_return_avg {evaluated:.3f} over" in output
    status, output, errors = command(*play, "--gif", "x.gif", "--eval-steps", 20)
    assert (status, errors) == (0, "")
    assert "Saved x.gif" in output


class Environment(gym.Env):
    """Keeps all rules; an episode has 20 steps."""

    observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def observe(self):
        return np.array([self.left, self.np_random.random()], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return self.observe(), {}

    def step(self, action):
        self.left -= 1
        return self.observe(), -1.0, self.left == 0, False, {}


class Lists(Environment):
    def observe(self):
        return super().observe().tolist()


def test_observations_may_be_lists(register, command):
    register("Lists-v0", Lists)
    assert command("--env", "Lists-v0", *SHORT)[::2] == (0, "")


class FourValues(Environment):
    def step(self, action):
        return super().step(action)[:4]


class FourValuesInAWrapper(gym.Wrapper):
    def step(self, action):
        return self.env.step(action)[:4]


class NoSeed(Environment):
    def reset(self):
        return super().reset()


class NoOptions(Environment):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class NoInfo(Environment):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class ThreeNumbers(Environment):
    def observe(self):
        return np.zeros(3, np.float32)


class Text(Environment):
    def observe(self):
        return np.array(["left", "right"])


class NoNumber(Environment):
    def step(self, action):
        observation, _, *others = super().step(action)
        return observation, None, *others


class Infinite(Environment):
    def step(self, action):
        observation, _, *others = super().step(action)
        return observation, np.inf, *others


class NoSpace(Environment):
    observation_space = None


@pytest.mark.parametrize(
    "make, problem",
    [
        (FourValues, "FourValues.step must return observation, reward, terminated, truncated and"),
        (lambda: FourValuesInAWrapper(Environment()), "FourValuesInAWrapper.step must return obse"),
        (NoSeed, "NoSeed.reset takes no seed; begin it with def reset(self, *, seed=None, option"),
        (NoOptions, "NoOptions.reset takes no options; begin it with def reset(self, *, seed="),
        (NoInfo, "NoInfo.reset must return observation and info, a dict; not "),
        (
            ThreeNumbers,
            "returned an observation of the shape (3,), where its observation space say",
        ),
        (Text, "the environment returned ['left' 'right'], which is not made of numbers"),
        (NoNumber, "the environment returned the reward None, which is not a single finite number"),
        (Infinite, "the environment returned the reward inf, which is not a single finite number"),
        (NoSpace, "NoSpace has no observation_space, a gymnasium.spaces.Space"),
        (mountain_car(TwoRewards), "the environment returned the reward [-1"),
        (mountain_car(Dictionary), "wrap it in gymnasium.wrappers.FlattenObservation"),
        (lambda **o: gym.make("FrozenLake-v1", **o), "gymnasium.wrappers.FlattenObservation"),
        (lambda **o: gym.make("Pendulum-v1", **o), "wrap it in gymnasium.wrappers.TransformAction"),
        (
            mountain_car(CountsFromOne),
            "wrap it in gymnasium.wrappers.TransformAction (docs/change-it",
        ),
    ],
)
@pytest.mark.parametrize("limit", [None, 30])
def test_a_broken_rule_is_named_before_anything_is_created(
    make, problem, limit, register, command, tmp_path
):
    register("Broken-v0", make, max_episode_steps=limit)
    status, _, errors = command(*SHORT, "--env", "Broken-v0")
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith("run.py: --env Broken-v0: ")
    assert problem in errors
    assert list(tmp_path.iterdir()) == []


class SometimesNan(Environment):
    """Returns nan after so many steps in all."""

    steps = 0
    first = 315

    def step(self, action):
        observation, *others = super().step(action)
        self.steps += 1
        if self.steps >= self.first:
            observation[1] = np.nan
        return observation, *others


def test_a_number_that_is_not_finite_is_told_with_its_step(register, command):
    register("Nan-v0", SometimesNan)
    status, _, errors = command(*SHORT, "--env", "Nan-v0", "--eval-steps", 200)
    assert (status, errors.count("\n")) == (2, 1)
    told = "the environment returned nan in observation[1] at step 315; the last good checkpoint is"
    assert errors.startswith(f"run.py: {told}")
    assert read_checkpoint("x-log")["run"]["step"] == 300


def test_it_is_told_in_an_evaluation_and_when_played_too(register, command, rolling):
    register("Nan-v0", SometimesNan)
    for options in (["--env", "Nan-v0", *SHORT], ["--model", "x-log/x-300.h5", "--eval"]):
        register("Nan-v0", SometimesNan if "--eval" in options else Environment)
        options += [] if "--eval" in options else ["--max-steps", 300]
        status, _, errors = command(*options)
        assert status == (2 if "--eval" in options else 0)
    assert errors == "run.py: the environment returned nan in observation[1]\n"


class OwnEpisode(Environment):
    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"episode": {"r": 7.0, "l": 1, "t": 1.0}}


def test_our_statistics_of_an_episode_win(register, command):
    register("Own-v0", OwnEpisode)
    status, output, errors = command(*SHORT, "--env", "Own-v0", "--log-every", 20)
    assert (status, errors) == (0, "")
    assert "episode 1 steps 20/20 loss none yet return -20.0 in" in output


class FloatsInIntegerSpace(Environment):
    observation_space = gym.spaces.Box(0, 255, (2,), np.uint8)


def test_observations_are_stored_as_they_are_returned_whatever_the_space_says(register, command):
    register("Floats-v0", FloatsInIntegerSpace)
    assert command(*SHORT, "--env", "Floats-v0")[::2] == (0, "")
    stored = read_checkpoint("x-log")["replay_buffer"]["observations"]
    assert len(np.unique(stored[:, 1])) > 400


class OldGenerator(Environment):
    """Has one of NumPy's older random generators."""

    def reset(self, *, seed=None, options=None):
        self.np_random = np.random.RandomState(seed or 0)
        self.left = 20
        return self.observe(), {}

    def observe(self):
        return np.array([self.left, self.np_random.random_sample()], np.float32)


def test_an_environment_with_an_older_random_generator_trains_and_cannot_be_resumed(
    register, command
):
    register("Old-v0", OldGenerator)
    status, output, errors = command(*SHORT, "--env", "Old-v0")
    assert (status, errors) == (0, "")
    told = (
        "This run can't be resumed: the state of env is not saved, for its np_random is not a num"
    )
    assert output.count(told) == 1
    status, _, errors = command("--resume", "x", "--max-steps", 500)
    assert status == 2 and "its np_random is not a numpy.random.Generator" in errors


NORMALIZED = {
    "observations": mountain_car(gym.wrappers.NormalizeObservation),
    "rewards": mountain_car(gym.wrappers.NormalizeReward),
}


@pytest.mark.parametrize("what", NORMALIZED)
def test_an_environment_that_remembers_across_resets_is_told_after_the_first_episode(
    what, register, command
):
    register("Normal-v0", NORMALIZED[what])
    status, output, errors = command(*SHORT, "--env", "Normal-v0", "--log-every", 1)
    assert (status, errors) == (0, "")
    told = "an episode goes differently when it is replayed: not all its randomness comes from "
    assert output.count(told) == 1
    assert output.index(told) < output.index("steps 200/400")
    status, _, errors = command("--resume", "x", "--max-steps", 500)
    assert status == 2 and "goes differently" in errors


class FromTheSecond(Environment):
    """Repeats its first episode, and no other one."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)

    def observe(self):
        return super().observe() + (self.resets > 4) * np.float32(0.01) * self.resets


class OnTheWay(Environment):
    """Goes differently in each episode, and ends where the first one did."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)

    def observe(self):
        return super().observe() + (self.left == 10) * np.float32(0.01) * self.resets


@pytest.mark.parametrize("make", [FromTheSecond, OnTheWay])
def test_what_outlasts_a_reset_is_told_also_where_it_shows_late_or_on_the_way(
    make, register, command
):
    register("Late-v0", make)
    status, output, errors = command(*SHORT, "--env", "Late-v0")
    assert (status, errors) == (0, "")
    assert output.count("an episode goes differently when it is replayed") == 1


class NewSpace(Environment):
    """Makes a new space of actions at each reset, as some traffic environments do."""

    def reset(self, *, seed=None, options=None):
        self.action_space = gym.spaces.Discrete(2)
        return super().reset(seed=seed)


def test_a_seed_repeats_a_run_where_a_reset_makes_a_new_space_of_actions(register, command):
    register("New-v0", NewSpace)
    found = []
    for name in ("a", "b"):
        options = [*SHORT, "--env", "New-v0", "--name", name, "--train-epsilon", 0.5]
        assert command(*options)[::2] == (0, "")
        found.append(read_checkpoint(f"{name}-log")["replay_buffer"]["actions"])
    np.testing.assert_equal(*found)


class Strict(Environment):
    """Of a package that treats all warnings of the program as errors."""

    def __init__(self):
        warnings.filterwarnings("error")


def test_a_package_that_makes_warnings_errors_ends_no_run(register, command):
    register("Strict-v0", Strict)
    with warnings.catch_warnings():
        assert command(*SHORT, "--env", "Strict-v0")[0] == 0


class Uncopyable(Environment):
    """One that can't be copied isn't played again; its resets count in what it shows."""

    resets = 0

    def __deepcopy__(self, memo):
        raise TypeError("made of parts of another language")

    def reset(self, **options):
        self.resets += 1
        return super().reset(**options)

    def observe(self):
        return super().observe() + np.float32([0, 0.01 * self.resets])


@pytest.mark.parametrize("env", [Environment, Uncopyable])
def test_the_first_episode_is_played_again_without_a_trace(env, register, command, monkeypatch):
    register("Rules-v0", env)
    status, output, _ = command(*SHORT, "--env", "Rules-v0")
    assert status == 0 and "can't be resumed" not in output
    played_again = read_checkpoint("x-log")["replay_buffer"]
    monkeypatch.setattr("support.environments.MAX_REPLAYED", -1)
    assert command(*SHORT, "--env", "Rules-v0", "--name", "never")[0] == 0
    np.testing.assert_equal(played_again, read_checkpoint("never-log")["replay_buffer"])


class Drawn(Environment):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as Gymnasium's own)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.full((20, 20, 3), 10 * self.left, np.uint8)


class TakesNoRenderMode(Drawn):
    def __init__(self):
        pass


def test_what_the_last_line_advises_works(register, command, monkeypatch):
    monkeypatch.setattr(run, "evaluate", run.evaluate)
    for env, look in ((Drawn, "--view"), (TakesNoRenderMode, "--eval"), (Environment, "--eval")):
        register("Look-v0", env)
        assert (why_not_drawn(gym.make("Look-v0")) is None) == (look == "--view")
    register("Look-v0", TakesNoRenderMode)
    with pytest.raises(WrongInput, match="it can't be drawn: it accepts no render_mode"):
        make_env("Look-v0", gif="x.gif")


def test_without_render_fps_a_gif_has_30_frames_a_second(register, command):
    register("Drawn-v0", Drawn)
    assert command(*SHORT, "--env", "Drawn-v0")[0] == 0
    play = ["--model", "x-log/x-450.h5", "--gif", "x.gif", "--eval-steps", 40]
    assert command(*play)[::2] == (0, "")
    from PIL import Image, ImageSequence

    with Image.open("x.gif") as gif:
        milliseconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif))
    assert milliseconds == pytest.approx(20 * 1000 / 30, abs=5)


class Endless(Environment):
    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, reward, False, False, {}


class LongNowAndThen(Environment):
    """Every fifth episode doesn't end."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes = 0 if seed is not None else self.episodes + 1
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, terminated, *others = super().step(action)
        return observation, reward, terminated and self.episodes != 4, *others


def test_an_evaluation_without_an_end_says_what_to_do_and_so_does_the_run(register, command):
    register("Endless-v0", Endless)
    status, output, errors = command(*SHORT, "--env", "Endless-v0")
    assert (status, errors) == (0, "")
    told = "No episode ended within EVAL_STEPS 450: raise it, or give the environment a time limit."
    assert output.count(told) == 2  # at both evaluations
    assert output.splitlines()[-1].startswith("No episode ended in an evaluation: raise EVAL_STEPS")


class Interrupted(Environment):
    """In which Ctrl-C is pressed."""

    def step(self, action):
        raise KeyboardInterrupt


def test_an_evaluation_ended_by_ctrl_c_blames_nothing_else(capsys):
    env = Interrupted()
    average, episodes = run.evaluate(env, run.create_model(env), seed=1)
    assert np.isnan(average) and episodes == 0
    assert "EVAL_STEPS" not in capsys.readouterr().out


def test_an_average_that_favours_short_episodes_is_told(register, command):
    register("Long-v0", LongNowAndThen)
    _, output, _ = command(*SHORT, "--env", "Long-v0")
    assert "The average favours short episodes, because a long one didn't end within" in output
    assert "over 4 episodes" in output


def test_averages_say_over_how_many_episodes(command):
    status, output, _ = command(*SHORT)
    assert status == 0
    line = "episode 2 step 450 episode_return_avg -200.000 avg_max_q_value"
    (evaluation,) = [text for text in output.splitlines() if text.startswith(line)]
    assert evaluation.endswith(" over 2 episodes")
    assert "Best: episode_return_avg -200.000 over 2 episodes at step 300, " in output
    _, output, _ = command("--model", "x-log/x-best.h5", "--eval", "--eval-steps", 210)
    assert output.endswith("episode_return_avg -200.000 over 1 episode\n")


def test_an_environment_is_recorded_under_its_full_name(command):
    assert command("--env", "MountainCar", *SHORT)[::2] == (0, "")
    assert read_checkpoint("x-log")["run"]["settings"]["env"] == "MountainCar-v0"
    assert command("--resume", "x", "--max-steps", 460, "--env", "MountainCar")[::2] == (0, "")
