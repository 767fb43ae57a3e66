"""A sweep takes the engine that measures what the reader has changed, and says which and why."""

import inspect

import gymnasium as gym
import pytest
from conftest import ROOT

import run as lesson
from experiments.common import compiled_loop, engines
from experiments.common.choice import MIRRORED, OUTSIDE, announce, choose_engine, fingerprint
from experiments.common.plan import add_plan_options, make_plan
from replay_buffer import ReplayBuffer
from support.command_line import OneLineParser
from support.options import read_constants

WRAPPED = """def make_env(*args, make=make_env):
    return make(*args)


"""
MINE = {"HIDDEN_UNITS = 32  #": "MINE = 1.0  # mine\nHIDDEN_UNITS = 4  #"}


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Lets sweeps use a run.py in which texts are replaced."""

    def change_(replacements):
        source = (ROOT / "run.py").read_text()
        for old, new in replacements.items():
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        (tmp_path / "run.py").write_text(source)
        monkeypatch.setattr(engines, "LESSON", tmp_path / "run.py")

    engines.make_loop.cache_clear()
    yield change_
    engines.make_loop.cache_clear()


def chosen(words=""):
    """The `Plan` that a command line asks for, and the `Choice` for it."""
    settings = read_constants(engines.LESSON)
    parser = OneLineParser()
    parser.add_argument("--name", default="x")
    add_plan_options(parser, settings)
    plan = make_plan(parser.parse_args(words.split()), settings, engines.LESSON)
    return plan, choose_engine(plan.first_runs(), plan.engine)


def test_what_the_compiled_loop_mirrors_is_what_somebody_has_looked_at():
    """If this fails, run.py has changed: let the loop follow, then put the new fingerprint in."""
    found = {name: fingerprint(getattr(lesson, name)) for name in MIRRORED}
    assert found == MIRRORED


def test_all_functions_of_the_lesson_are_called_or_mirrored():
    called = {
        "create_model",
        "hidden_layer",
        "create_optimizer",
        "predict",
        "fit_batch",
        "one_hot_encode",
    }
    without_effect = {"save_model"}
    functions = inspect.getmembers(lesson, inspect.isfunction)
    own = {name for name, function in functions if function.__module__ == "run"}
    assert own == (called | without_effect | {*MIRRORED} | {"spawn_seeds"}) - {
        "ReplayBuffer",
        "make_env",
    }


@pytest.mark.parametrize(
    "replacements",
    [
        {},
        {"        done = term": "        # at the flag\n\n        done = term"},
        {"Trains the network by deep Q-learning": "Does"},
        {"    return loss\n": "    return 2 * loss\n"},
        {"hidden = hidden_layer(hidden)\n": "\n"},
        {"import tqdm\n": "import tqdm\n\n\ndef mine(x):\n    return x\n"},
        {"TRAIN_EPSILON = 0.01": "TRAIN_EPSILON = 0.02"},
    ],
    ids=["nothing", "comment", "docstring", "fit_batch", "create_model", "new", "constant"],
)
def test_what_is_measured_by_the_compiled_loop_is_compiled(replacements, change):
    change(replacements)
    assert chosen()[1][:2] == ("compiled", None)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("        done = term", "        reward *= 2\n        done = term", "train"),
        ("env.step(action)\n            ep", "env.step(0)\n            ep", "evaluate"),
        ("return int(np.argmax(", "return int(np.argmin(", "greedy_action"),
        ("np_random.random() < epsilon", "np_random.random() > epsilon", "epsilon_greedy_action"),
        ("np.mean(np.max(q", "np.mean(np.min(q", "evaluate_and_save_best"),
        ("    set_seed(env, options.seed)", "    env.unwrapped.force *= 2", "main"),
        ("    model.summary()", "    model.trainable = False", "load_or_create_model"),
        ("from replay_buffer import ReplayBuffer", "class ReplayBuffer:\n    pass", "ReplayBuffer"),
        ("from replay_buffer import ReplayBuffer", "ReplayBuffer = None", "ReplayBuffer"),
        ("def one_hot_encode", f"{WRAPPED}def one_hot_encode", "make_env"),
    ],
)
def test_what_is_not_measured_by_the_compiled_loop_is_trained_exactly(old, new, name, change):
    change({old: new})
    plan, found = chosen()
    assert (found.engine, found.why) == ("exact", f"{name} has been changed")
    line = announce(plan._replace(engine="exact"), found, plan.runs(), 2)
    assert line == f"Exact ({name} has been changed): 10 runs, 2 at a time, about 4 minutes"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("train = functools.wraps(train)(lambda *parts: None)", "train"),
        ("ReplayBuffer.sample = lambda self, batch_size: None", "ReplayBuffer"),
    ],
)
def test_what_is_replaced_afterwards_counts_as_changed(line, name, change, monkeypatch):
    monkeypatch.setattr("replay_buffer.ReplayBuffer.sample", ReplayBuffer.sample)  # in the end
    change({"\n\nif __name__ ==": f"\n\nimport functools\n{line}\n\nif __name__ =="})
    assert chosen()[1][:2] == ("exact", f"{name} has been changed")


def test_several_changes_are_named_together(change):
    change(
        {
            "        done = term": "        reward *= 2\n        done = term",
            "return int(np.argmax(": "return int(np.argmin(",
        }
    )
    assert chosen()[1].why == "train and greedy_action have been changed"


def test_a_constant_of_ones_own_is_compiled_unless_train_uses_it(change):
    change(MINE | {"return loss\n": "return loss * MINE\n"})
    assert chosen("--mine 1 0.5")[1][:2] == ("compiled", None)
    change(MINE | {"        done = term": "        reward *= MINE\n        done = term"})
    assert chosen("--mine 1 0.5")[1][:2] == ("exact", "train has been changed")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--log-every 10", "LOG_EVERY acts only outside of the compiled loop"),
        (
            "--snapshot-every 1000 --checkpoint-every 2000 10000",
            "SNAPSHOT_EVERY and CHECKPOINT_EVERY act only outside of the compiled loop",
        ),
    ],
)
def test_an_option_that_acts_only_outside_of_the_loop_is_trained_exactly(words, why):
    assert chosen(words)[1][:2] == ("exact", why)


def test_every_constant_of_run_is_used_by_the_loop_or_acts_only_outside_of_it():
    source = inspect.getsource(compiled_loop)
    called = [
        lesson.create_model,
        lesson.hidden_layer,
        lesson.create_optimizer,
        lesson.predict,
        lesson.fit_batch,
    ]
    source += "".join(inspect.getsource(function) for function in called)
    for constant in lesson.options.constants:
        assert (constant.constant in source) == (constant.constant not in OUTSIDE)


def test_an_option_that_says_what_the_source_says_changes_nothing():
    assert chosen("--log-every 2000")[1].engine == "compiled"


def test_without_compiled_operations_it_is_trained_exactly(change):
    change({"@compiled\ndef fit": "def fit"})
    assert_impossible("", "fit_batch is not @compiled")


def test_a_changed_environment_is_trained_exactly(monkeypatch):
    why = "there are compiled dynamics of MountainCar-v0, CartPole-v1, Acrobot-v1 only"
    env = gym.make("MountainCar-v0").unwrapped.__class__
    monkeypatch.setitem(gym.registry, "Again-v0", gym.envs.registration.EnvSpec("Again-v0", env))
    assert_impossible("--env Again-v0", why)
    reward = gym.wrappers.TransformReward
    spec = gym.envs.registration.EnvSpec("CartPole-v1", lambda **options: reward(env(), float))
    monkeypatch.setitem(gym.registry, "CartPole-v1", spec)
    assert_impossible("--env CartPole-v1", why)


def assert_impossible(words, why):
    assert chosen(words)[1][:2] == ("exact", why)
    found = chosen(f"{words} --compiled")[1]
    assert found.problem == f"--compiled is impossible: {why}" and not found.is_mistake


def test_the_reader_can_decide(change):
    change({"        done = term": "        reward *= 2\n        done = term"})
    plan, found = chosen("--compiled --seeds 1 --max-steps 3000000")
    assert announce(plan, found, plan.runs(), 2) == (
        "Compiled (as you say, although train has been changed): 1 run, 1 at a time, about a minute"
    )
    plan, found = chosen("--exact --seeds 100")
    assert announce(plan, found, plan.runs(), 4) == (
        "Exact (as you say): 100 runs, 4 at a time, about 21 minutes"
    )


def test_a_mistake_is_told_before_anything_is_trained(change):
    change({"    q_values = keras.layers.Dense(n_actions)": "    q_values = keras.layers.Dnse(1)"})
    found = chosen()[1]
    assert found.is_mistake and "module 'keras.layers' has no attribute 'Dnse'" in found.problem
    assert found.problem.endswith(": q_values = keras.layers.Dnse(1)(hidden))")


def test_wrong_input_is_told_before_anything_is_trained():
    found = chosen("--env Pendulum-v1")[1]
    assert not found.is_mistake and found.problem.startswith("--env Pendulum-v1: its")
