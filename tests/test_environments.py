"""Which environments are stored and resumed as they were, and which are refused."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from conftest import main

from support import runs
from support.checkpoints import read_checkpoint
from support.environments import make_env

SHORT = (
    "--name x --seed 1 --train-start 50 --batch-size 8 --q-validation-size 100 --eval-every 300 "
    "--eval-steps 50 --max-steps 330"
).split()


class Walk(gym.Env):
    """A random walk along a line; an episode has 20 to 40 steps."""

    observation_space = gym.spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def observe(self):
        return np.array([self.place, self.left], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.left = 0.0, int(self.np_random.integers(20, 40))
        return self.observe(), {}

    def step(self, action):
        self.place += action - self.np_random.random()
        self.left -= 1
        return self.observe(), self.place, self.left == 0, False, {}


class OneArray(Walk):
    """Returns the same array every time, with other content."""

    array = np.zeros(2, np.float32)

    def observe(self):
        self.array[:] = super().observe()
        return self.array


class OwnRandomness(Walk):
    """Draws from a generator of its own."""

    def step(self, action):
        self.place += np.random.default_rng().random()
        return super().step(action)


class Outlives(Walk):
    """What it observes depends on all that it has ever observed."""

    mean = 0.0

    def observe(self):
        observation = super().observe()
        self.mean += 0.1 * (self.place - self.mean)
        return observation - np.float32(self.mean)


class Endless(Walk):
    """Its episode never ends."""

    def step(self, action):
        self.left += 1
        return super().step(action)


class Grows(Walk):
    """Observes more numbers after a step than at the reset."""

    def step(self, action):
        observation, *others = super().step(action)
        return np.append(observation, 0), *others


class Blind(Walk):
    """Can't be drawn."""


@pytest.fixture(autouse=True)
def environments(monkeypatch):
    for env in (Walk, OneArray, OwnRandomness, Outlives, Endless, Grows, Blind):
        spec = gym.envs.registration.EnvSpec(f"{env.__name__}-v0", env)
        monkeypatch.setitem(gym.registry, spec.id, spec)


@pytest.mark.slow
def test_an_environment_that_changes_the_array_it_returned_is_stored_as_it_was(command):
    found = []
    for env in ("Walk-v0", "OneArray-v0"):
        assert command("--env", env, *SHORT, "--name", env)[::2] == (0, "")
        found.append(read_checkpoint(f"{env}-log")["replay_buffer"])
    np.testing.assert_equal(*found)
    assert (found[0]["observations"] != found[0]["next_observations"]).any(axis=1).all()


@pytest.mark.slow
def test_an_environment_that_can_be_played_again_resumes_in_the_middle_of_an_episode(command):
    assert command("--env", "Walk-v0", *SHORT)[::2] == (0, "")
    assert len(read_checkpoint("x-log")["env"]["actions"]) > 0
    assert command("--resume", "x-log", "--max-steps", 400)[::2] == (0, "")
    assert command("--env", "Walk-v0", *SHORT, "--name", "y", "--max-steps", 400)[::2] == (0, "")
    x, y = [read_checkpoint(f"{name}-log")["replay_buffer"] for name in "xy"]
    np.testing.assert_equal(x["observations"], y["observations"])
    np.testing.assert_equal(x["rewards"], y["rewards"])


@pytest.mark.slow
@pytest.mark.parametrize("env", ["OwnRandomness-v0", "Outlives-v0"])
def test_an_environment_that_cannot_be_played_again_is_refused_on_resuming(env, command):
    status, output, errors = command("--env", env, *SHORT)
    assert (status, errors) == (0, "")
    assert output.count("This run can't be resumed: the state of env is not saved, for an epi") == 1
    before = read_checkpoint("x-log")
    status, _, errors = command("--resume", "x-log", "--max-steps", 400)
    assert (status, errors.count("\n")) == (2, 1)
    assert "x-log can't be resumed: the state of env is not saved, for an episode" in errors
    assert repr(read_checkpoint("x-log")) == repr(before)


def same_end(logdir, other):
    """Whether two runs have come to the same transitions and the same network."""
    x, y = read_checkpoint(logdir), read_checkpoint(other)
    for part in ("replay_buffer", "model"):
        np.testing.assert_equal(x[part], y[part])
    return True


def test_a_run_whose_episodes_never_end_is_saved_and_resumed_all_the_same(command, monkeypatch):
    begin = ["--env", "Endless-v0", *SHORT, "--checkpoint-every", 50]
    saved = []

    def crash_at_200(step):
        saved.append(step)
        if step == 200:
            raise RuntimeError("crash")

    with monkeypatch.context() as crash:
        crashing = functools.partial(runs.Run, on_checkpoint=crash_at_200)
        crash.setattr("support.runs.Run", crashing)
        with pytest.raises(RuntimeError):
            command(*begin)
    assert saved == [100, 200]  # at most twice as far apart as they should be
    assert command("--resume", "x-log")[::2] == (0, "")
    assert command(*begin, "--name", "y")[::2] == (0, "")
    assert same_end("x-log", "y-log")


class Tires(gym.Wrapper):
    """The longer an episode, the less each step is worth."""

    def reset(self, **options):
        self.steps = 0
        return self.env.reset(**options)

    def step(self, action):
        self.steps += 1
        observation, reward, *others = self.env.step(action)
        return observation, reward - self.steps, *others


def test_an_environment_that_a_reader_wraps_resumes_in_the_middle_of_an_episode(
    tmp_path, monkeypatch
):
    def wrapped(*arguments, **options):
        return Tires(make_env(*arguments, **options))

    monkeypatch.chdir(tmp_path)
    begin = f"--env Walk-v0 {' '.join(SHORT)}"
    main(begin, make_env=wrapped)
    assert len(read_checkpoint("x-log")["env"]["actions"]) > 0
    main("--resume x-log --max-steps 400", make_env=wrapped)
    main(f"{begin} --name y --max-steps 400", make_env=wrapped)
    assert same_end("x-log", "y-log")


def test_evaluations_change_nothing_where_the_environments_of_a_class_share_a_space(command):
    assert Walk().action_space is Walk().action_space
    begin = ["--env", "Walk-v0", *SHORT, "--train-epsilon", 0.5]
    assert command(*begin)[::2] == (0, "")
    assert command(*begin, "--name", "y", "--eval-every", 100)[::2] == (0, "")
    assert same_end("x-log", "y-log")


@pytest.mark.parametrize(
    "env_id, problem",
    [
        ("Grows-v0", "returned an observation of the shape (3,), where its observation space says"),
        (":Walk-v0", "it is not a name such as MountainCar-v0 or module:Name-v0"),
        ("a:b:c", "it is not a name such as"),
        (".a:Walk-v0", "it is not a name such as"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_created(env_id, problem, command, tmp_path):
    status, _, errors = command(*SHORT, "--env", env_id)
    assert problem in errors
    assert (status, errors.count("\n")) == (2, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_cannot_be_drawn_is_evaluated_instead(command):
    status, output, errors = command(*SHORT, "--env", "Blind-v0", "--max-steps", 2000)
    assert (status, errors) == (0, "")
    assert " --view" not in output
    status, _, errors = command("--model", "x-log/x-best.h5", "--gif", "x.gif")
    assert (status, errors.count("\n")) == (2, 1)
    assert "it can't be drawn: its metadata name no render mode rgb_array" in errors
