"""The lesson is made to be changed: what a reader adds acts, shows itself, and is kept."""

import contextlib
import sys
import traceback

import gymnasium as gym
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import run
from replay_buffer import ReplayBuffer
from support.checkpoints import encode, read_checkpoint
from support.fast_tensorflow import EAGER, compiled
from support.options import load_lesson

SHORT = (
    "--seed 1 --train-start 100 --batch-size 16 --target-update-every 50 --eval-every 200 "
    "--eval-steps 210 --max-steps 400 --q-validation-size 100"
).split()
FOUR_CONSTANTS = {  # what a reader writes instead of what stands in run.py
    "TRAIN_EPSILON =": (
        "HIDDEN = 16  # neurons in a hidden layer\n"
        "DOUBLE = True  # whether the network chooses and the target network judges\n"
        "LOSS = 'mean_squared_error'\n"
        "REWARD_SCALE: float = 1  # by which rewards are multiplied\n"
        "TRAIN_EPSILON ="
    ),
    "keras.layers.Dense(HIDDEN_UNITS, ": "keras.layers.Dense(HIDDEN, ",
    'loss="mean_squared_error"': "loss=LOSS",
    "    max_next_q_values = tf.where(": (
        "    if DOUBLE:\n"
        "        best = tf.argmax(predict(env, model, next_observations), axis=1)\n"
        "        best = one_hot_encode(env.action_space.n, best)\n"
        "        next_q_values = predict(env, target_model, next_observations)\n"
        "        max_next_q_values = tf.reduce_sum(best * next_q_values, axis=1)\n"
        "    max_next_q_values = tf.where("
    ),
    "replay_buffer.add(observation, action, reward, ": (
        "replay_buffer.add(observation, action, reward * REWARD_SCALE, "
    ),
}


def changed(folder, replacements, name="run.py"):
    """A copy of run.py in which texts are replaced; returns its path."""
    source = (ROOT / "run.py").read_text()
    for old, new in replacements.items():
        assert old in source, old
        source = source.replace(old, new)
    (folder / name).write_text(source)
    return folder / name


@contextlib.contextmanager
def running(is_eager):
    """Runs compiled functions line by line meanwhile, if `is_eager`, by TensorFlow's own switch."""
    tf.config.run_functions_eagerly(is_eager)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def weights(filename):
    """The weights in a snapshot, without the optimizer's state: their bytes."""
    found = []
    with h5py.File(filename) as file:
        file["model_weights"].visititems(
            lambda name, item: found.append(item[()].tobytes()) if hasattr(item, "dtype") else None
        )
    return b"".join(found)


def columns(logdir):
    """A run's hyperparameters on TensorBoard's HParams page: dict of names to values."""
    events = EventAccumulator(str(logdir)).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    recorded = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in recorded.items()}


ADDED = {
    "hidden": (["--hidden", 8], 8),
    "double": (["--no-double"], False),
    "loss": (["--loss", "huber"], "huber"),
    "reward_scale": (["--reward-scale", 0.5], 0.5),
}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """The directory of a run in which the added constants have the values of the source."""
    folder = tmp_path_factory.mktemp("unchanged")
    script = changed(folder, FOUR_CONSTANTS, "lesson.py")
    keras.backend.clear_session(free_memory=False)  # layers are named as in a new process
    lesson = load_lesson(script, ["--name", "a", *SHORT])
    with contextlib.chdir(folder):
        lesson.main(lesson.options)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ADDED)
def test_a_new_constant_acts_and_is_recorded_and_resumed(name, command, tmp_path, unchanged):
    script = changed(tmp_path, FOUR_CONSTANTS, "lesson.py")
    option, value = ADDED[name]
    assert command("--name", "b", *SHORT, *option, script=script)[::2] == (0, "")
    assert weights(unchanged / "a-log" / "a-400.h5") != weights("b-log/b-400.h5")
    assert read_checkpoint("b-log")["run"]["settings"][name] == value
    assert columns("b-log")[name] == value != columns(unchanged / "a-log")[name]

    assert command("--resume", "b-log", "--max-steps", 450, script=script)[::2] == (0, "")
    longer = ["--name", "c", *SHORT, *option, "--max-steps", 450]
    assert command(*longer, script=script)[::2] == (0, "")
    assert weights("b-log/b-450.h5") == weights("c-log/c-450.h5")


LOOK = {"    masks = one_hot_encode(": "    print('LOOK', targets[0])\n    masks = one_hot_encode("}
QUICK = [*SHORT[:-4], "--max-steps", 110, "--eval-steps", 5]


@pytest.mark.slow
def test_eagerly_print_shows_numbers_at_every_update(command, tmp_path):
    script = changed(tmp_path, LOOK, "lesson.py")
    status, output, errors = command("--name", "x", *QUICK, "--eager", script=script)
    assert (status, errors) == (0, "")
    assert output.count(EAGER) == 1
    shown = [line for line in output.splitlines() if line.startswith("LOOK")]
    assert len(shown) == 110 - 100 + 1
    assert all(line.startswith("LOOK tf.Tensor(") for line in shown)
    assert len(set(shown)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"@compiled\n": ""}], ids=["eager", "undecorated"])
def test_eagerly_the_numbers_are_the_same_up_to_rounding(change, command, tmp_path):
    script = changed(tmp_path, change, "lesson.py")
    options = [] if change else ["--eager"]
    assert command("--name", "a", *QUICK)[::2] == (0, "")
    assert command("--name", "b", *QUICK, *options, script=script)[::2] == (0, "")
    a, b = (np.frombuffer(weights(f"{x}-log/{x}-110.h5"), np.float32) for x in "ab")
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", ["fit_batch", "predict", "greedy_action", "one_hot_encode"])
def test_eagerly_breakpoint_stops_in_run_py_with_values(
    function, command, tmp_path, monkeypatch, capsys
):
    source = (ROOT / "run.py").read_text()
    body = source[source.index(f"def {function}(") :].partition('"""')[2]
    docstring = body.partition('"""')[0]
    script = changed(tmp_path, {f'{docstring}"""\n': f'{docstring}"""\n    breakpoint()\n'}, "l.py")
    stops = []

    def stop():
        frame = sys._getframe(1)
        values = [value for value in frame.f_locals.values() if hasattr(value, "shape")]
        stops.append((frame.f_code.co_filename, frame.f_code.co_name, values))

    monkeypatch.setattr(sys, "breakpointhook", stop)
    assert command("--name", "x", *QUICK, "--eager", script=script)[::2] == (0, "")
    assert {(file, name) for file, name, _ in stops} == {(str(script), function)}
    assert all(np.asarray(value).dtype != object for _, _, values in stops for value in values)


def test_tensorflows_own_switch_does_the_same(env, model):
    buffer = ReplayBuffer(4, env.observation_space, seed=0)
    observation, _ = env.reset(seed=0)
    buffer.add(observation, 1, -1.0, observation, False)
    seen = []

    @compiled
    def look(env, model, batch):
        observations, *_ = batch
        seen.append(observations)
        return run.predict(env, model, observations)

    expected = look(env, model, buffer.sample(2))
    with running(is_eager=True):
        found = look(env, model, buffer.sample(2))
    assert type(found) is type(expected) is np.ndarray
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    symbols, numbers = seen
    assert not hasattr(symbols, "numpy") and np.array_equal(numbers.numpy()[0], observation)


MISTAKES = {
    "    max_next_q_values = tf.where(": "    max_next_q_values = tf.wher(",
    "masks * targets[:, tf.newaxis]": "masks * targets",
    "tf.cast(rewards, tf.float32) +": "rewards.sum() +",
}


@pytest.mark.parametrize("options", [[], ["--eager"]], ids=["compiled", "eager"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_fit_batch_names_its_line_in_a_short_traceback(
    mistake, options, command, tmp_path
):
    script = changed(tmp_path, {mistake: MISTAKES[mistake]}, "lesson.py")
    rows = script.read_text().splitlines()
    line = next(row for row in rows if MISTAKES[mistake] in row).strip()
    with pytest.raises(Exception) as error:
        command("--name", "x", *QUICK, *options, script=script)
    trace = error.tb
    while trace.tb_frame.f_code.co_filename != str(script):  # of this test
        trace = trace.tb_next
    told = "".join(traceback.format_exception(error.type, error.value, trace))
    assert line in told
    assert len(told.splitlines()) <= 25
    assert not list(tmp_path.glob("*-log"))


@compiled
def mixed(env, numbers, factor=2.0, *others, shift=0.0, **named):
    """What can be handed over in every way that Python allows."""
    result = tf.cast(numbers, tf.float32) * factor + shift
    for other in others:
        result += tf.cast(other, tf.float32)
    return {"result": result, "count": (len(others), named.get("flag"))}


@pytest.mark.parametrize(
    "args, kwargs, result",
    [
        ((np.array([1, 2]),), {}, [2, 4]),
        ((np.array([1, 2]), 3.0), {}, [3, 6]),
        ((np.array([1, 2]),), {"factor": 3.0}, [3, 6]),
        ((), {"numbers": np.array([1, 2]), "factor": 3.0}, [3, 6]),
        ((np.array([1, 2]), 1.0, np.array([10, 20])), {"shift": 1.0}, [12, 23]),
        ((np.array([1, 2]), np.float32(4)), {"flag": True}, [4, 8]),
        ((np.array([1, 2]),), {"shift": np.array([5, 6], np.float32)}, [7, 10]),
    ],
)
def test_compiled_functions_take_arguments_in_every_way(args, kwargs, result, env):
    for _ in range(2):
        found = mixed(env, *args, **kwargs)
        assert found["result"].tolist() == result
        assert found["count"] == (len(args) > 2, kwargs.get("flag"))
    with running(is_eager=True):
        assert mixed(env, *args, **kwargs)["result"].tolist() == result


@pytest.mark.parametrize("is_eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    "batch",
    [
        (np.ones(2), np.ones((2, 2))),
        [np.ones(2), np.ones((2, 2))],
        ([1, 1], [[1, 1], [1, 1]]),
        [(1, 1), (np.ones(2), np.ones(2))],
        (tf.ones(2), tf.ones((2, 2))),
        (np.float32(2), np.array([True, True, True, True])),
    ],
    ids=["tuple", "list", "lists in a tuple", "tuples in a list", "tensors", "number and bools"],
)
def test_a_compiled_function_takes_a_batch_as_tuple_or_list(batch, is_eager):
    @compiled
    def total(batch, more=()):
        columns = [*batch, *more]
        return tf.add_n([tf.reduce_sum(tf.cast(column, tf.float32)) for column in columns])

    with running(is_eager):
        assert total(batch) == total(batch=batch) == 6
        assert total(batch, batch) == total(batch, more=batch) == 12


@pytest.mark.parametrize("is_eager", [False, True], ids=["compiled", "eager"])
def test_results_are_numpy_arrays_in_the_structure_that_the_function_returns(is_eager):
    @compiled
    def look(array):
        return {"twice": array * 2, "both": (array, [array + 1]), "none": None}

    with running(is_eager):
        found = look(np.array([1, 2]))
    first, (second,) = found["both"]
    arrays = found["twice"], first, second
    assert [type(array) for array in arrays] == [np.ndarray] * 3
    assert [array.tolist() for array in arrays] == [[2, 4], [1, 2], [2, 3]]
    assert found["none"] is None


def test_without_the_decorator_a_function_takes_and_gives_the_same_numbers(env, model):
    observations = np.array([[-0.5, 0.0], [0.3, 0.05]], np.float32)
    q_values = run.predict(env, model, observations)
    undecorated = run.predict.__wrapped__(env, model, observations)
    assert type(q_values) is np.ndarray
    assert undecorated.numpy().shape == (2, 3)
    np.testing.assert_allclose(undecorated, q_values, rtol=1e-5)


def test_a_mistake_that_shows_only_when_the_graph_runs_says_how_to_see_its_line():
    @compiled
    def fails(array):
        return tf.gather(array, [5])

    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        fails(np.ones(2))
    assert any("run with --eager to see it" in note for note in error.value.__notes__)


@pytest.mark.parametrize(
    "use",
    [
        lambda tensor: 1 if tensor[0] > 0 else 2,
        lambda tensor: [number for number in tensor],
        lambda tensor: range(tensor[0]),
        lambda tensor: float(tensor[0]),
        lambda tensor: f"{tensor[0]:.2f}",
        lambda tensor: np.sum(tensor),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.argmax(),
    ],
    ids=["if", "for", "range", "float", "format", "np.sum", "numpy", "argmax"],
)
def test_a_tensor_used_as_a_number_while_it_has_no_value_says_what_to_do(use):
    @compiled
    def fails(array):
        return use(array)

    with pytest.raises((TypeError, AttributeError, NotImplementedError)) as error:
        fails(np.ones(2))
    (note,) = error.value.__notes__
    assert "tf.where" in note and "--eager" in note


def test_a_constant_that_changes_while_the_program_runs_acts(env, model):
    buffer = ReplayBuffer(4, env.observation_space, seed=0)
    observation, _ = env.reset(seed=0)
    buffer.add(observation, 1, -1.0, observation, False)
    target_model = keras.models.clone_model(model)
    target_model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
    before = model.get_weights()
    losses = []
    for gamma in (0.5, 0.9, 0.5):
        model.set_weights(before)
        run.DISCOUNT_FACTOR_GAMMA = gamma
        losses.append(run.fit_batch(env, model, target_model, buffer.sample(4)))
    assert losses[0] == losses[2] != losses[1]


def test_a_function_that_is_traced_again_and_again_says_so_once():
    @compiled
    def times(number, array):
        return array * number

    with pytest.warns(UserWarning, match=r"traced 10 times.*np\.float32\(number\)") as warned:
        for number in range(20):
            assert times(float(number), np.ones(2)).tolist() == [number, number]
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert times(0.0, np.ones(2)).tolist() == [0, 0]  # also where its graph was forgotten


def test_an_array_that_changes_is_traced_once(recwarn):
    traced = []

    @compiled
    def times(number, array):
        traced.append(number)
        return array * number

    for number in range(20):
        assert times(np.float32(number), np.ones(2, np.float32)).tolist() == [number, number]
    assert len(traced) == 1
    assert not recwarn.list


OWN_BUFFER = """
import random


class OwnBuffer:
    def __init__(self):
        self.transitions = []

    def add(self, *transition):
        self.transitions.append(transition)

    def sample(self, batch_size):
        batch = random.choices(self.transitions, k=batch_size)
        return {how}


"""
MAKE_BUFFER = """ReplayBuffer(
        REPLAY_BUFFER_SIZE, env.observation_space, buffer_seed, N_STEPS, DISCOUNT_FACTOR_GAMMA
    )"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "list(zip(*batch))",
        "tuple(zip(*batch))",
        "[np.array(column) for column in zip(*batch)]",
        "[list(column) for column in zip(*batch)]",
    ],
)
def test_a_replay_buffer_with_nothing_but_add_and_sample_trains(how, command, tmp_path):
    own = OWN_BUFFER.replace("{how}", how)
    replacements = {"# Each of these": f"{own}# Each of these", MAKE_BUFFER: "OwnBuffer()"}
    script = changed(tmp_path, replacements, "lesson.py")
    status, output, errors = command("--name", "x", *SHORT, script=script)
    assert (status, errors) == (0, "")
    why = "the state of replay_buffer is not saved, for it has no get_state and set_state"
    assert output.count(f"This run can't be resumed: {why}.\n") == 1
    assert "step 400 episode_return_avg" in output
    assert weights("x-log/x-400.h5")
    status, _, errors = command("--resume", "x-log", "--max-steps", 500, script=script)
    assert (status, errors) == (2, f"lesson.py: x-log can't be resumed: {why}\n")


@pytest.mark.parametrize(
    "state, reason",
    [
        ({"lock": object()}, "'lock' is neither an array of numbers nor made of numbers"),
        ({"a": np.array([object()])}, "'a' is neither an array of numbers"),
        ({"a": [np.zeros(2)]}, "'a' is neither an array of numbers"),
        ({"a": np.array(["text"])}, "'a' is neither an array of numbers"),
        ({"a/b": 1}, "the name 'a/b' is not made of letters, digits and _"),
        ({"a" * 70000: 1}, "is not made of letters"),
        ({3: 1}, "the name 3 is not made of letters"),
        ([1], "list is not a dict"),
    ],
    ids=range(8),
)
def test_what_cannot_be_written_into_a_checkpoint_is_named(state, reason):
    with pytest.raises(TypeError) as error:
        encode(state)
    assert reason in str(error.value)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize(
    "state, reason",
    [
        ("{'lock': object()}", "'lock' is neither an array of numbers nor made of numbers"),
        ("1 / 0", "fails with ZeroDivisionError('division by zero') (lesson.py, line"),
        ("open('/no')", "fails with FileNotFoundError"),
    ],
)
def test_a_part_that_cannot_give_its_state_ends_nothing(state, reason, command, tmp_path):
    """It is told when the first episode ends, although the buffer was empty at the start."""
    own = f"    def get_state(self):\n        return {state} if self.transitions else {{}}\n\n"
    own += "    set_state = close = None"
    own = OWN_BUFFER.replace("{how}", "list(zip(*batch))").rstrip() + f"\n\n{own}\n\n\n"
    replacements = {"# Each of these": f"{own}# Each of these", MAKE_BUFFER: "OwnBuffer()"}
    script = changed(tmp_path, replacements, "lesson.py")
    status, output, errors = command("--name", "x", *SHORT, script=script)
    assert (status, errors) == (0, "")
    told = "can't be resumed: the state of replay_buffer is not saved"
    assert output.count(told) == 1
    assert reason in output
    assert output.index(told) < output.index("x-400.h5")


@pytest.mark.slow
def test_an_environment_wrapped_in_main_trains_and_resumes(command, tmp_path):
    made = "make_env(options.env, options.view, options.images, options.gif, title=options.model)"
    replacements = {
        "import keras\n": "import gymnasium as gym\nimport keras\n",
        f"env = {made}": f"env = gym.wrappers.TransformReward({made}, lambda reward: reward / 2)",
    }
    script = changed(tmp_path, replacements, "lesson.py")
    status, output, errors = command("--name", "a", *SHORT, script=script)
    assert (status, errors) == (0, "")
    assert "can't be resumed" not in output
    buffer = read_checkpoint("a-log")["replay_buffer"]
    assert set(buffer["rewards"]) == {-0.5}

    assert command("--resume", "a-log", "--max-steps", 450, script=script)[::2] == (0, "")
    assert command("--name", "b", *SHORT, "--max-steps", 450, script=script)[::2] == (0, "")
    assert weights("a-log/a-450.h5") == weights("b-log/b-450.h5")


@pytest.mark.slow
def test_a_crash_after_a_checkpoint_says_how_to_go_on(command, tmp_path, capsys):
    crash = {"        log.step(step": "        if step == 300: 1 / 0\n        log.step(step"}
    script = changed(tmp_path, crash, "lesson.py")
    with pytest.raises(ZeroDivisionError):
        command("--name", "x", *SHORT, "--checkpoint-every", 100, script=script)
    assert "To continue from step 200, once that is fixed" in capsys.readouterr().out
    script = changed(tmp_path, {}, "lesson.py")
    assert command("--resume", "x-log", script=script)[::2] == (0, "")


def test_a_name_that_is_taken_offers_nothing_to_continue(command, tmp_path):
    (tmp_path / "x-log").mkdir()
    (tmp_path / "x-log" / "notes.txt").touch()
    status, output, errors = command("--name", "x", *SHORT)
    assert status == 2 and "x-log exists; choose another name" in errors
    assert "To continue" not in output


def test_a_loop_that_ends_early_ends_well(command, tmp_path):
    save = "        if step % SNAPSHOT_EVERY == 0:\n"
    early = {save: f"        if step == 300:\n            break\n{save}"}
    script = changed(tmp_path, early, "lesson.py")
    status, output, errors = command("--name", "x", *SHORT, script=script)
    assert (status, errors) == (0, "")
    last = output.splitlines()[-1]
    assert last.startswith("Best: episode_return_avg -200.000 over 1 episode at step 200")


OWN_MISTAKES = {
    "open('nowhere.txt')": FileNotFoundError,
    "with np.errstate(all='raise'): np.float32(1) / np.float32(0)": FloatingPointError,
    "raise MemoryError('too much')": MemoryError,
    "np.zeros((10**6, 10**6, 10**6))": MemoryError,
    "int('x')": ValueError,
}
PLACES = (
    '    print(f"Seed {options.seed}")\n',
    "            loss = fit_batch(env, model, target_model, batch)\n",
)


@pytest.mark.parametrize("place", PLACES, ids=["in main", "in train"])
@pytest.mark.parametrize("mistake", OWN_MISTAKES)
def test_a_mistake_in_own_code_keeps_its_traceback(mistake, place, command, tmp_path):
    indentation = place[: -len(place.lstrip())]
    script = changed(tmp_path, {place: f"{place}{indentation}{mistake}\n"}, "lesson.py")
    with pytest.raises(OWN_MISTAKES[mistake]) as error:
        command("--name", "x", *SHORT, script=script)
    last = traceback.extract_tb(error.tb)[-1]
    assert (last.filename, last.line) == (str(script), mistake)
    assert list(tmp_path.glob("*-log")) == []


def test_a_mistake_in_an_environment_of_ones_own_keeps_its_traceback(command, monkeypatch):
    class Broken(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (2,))
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.strat, {}

    spec = gym.envs.registration.EnvSpec("Broken-v0", Broken)
    monkeypatch.setitem(gym.registry, "Broken-v0", spec)
    with pytest.raises(AttributeError, match="strat"):
        command("--name", "x", *SHORT, "--env", "Broken-v0")
