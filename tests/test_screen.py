"""The screen: a compiled loop that does what run.py does, with many seeds, in minutes."""

import os
import signal

import gymnasium as gym
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT, exit_status, finish, read_until, start_experiment

import run
from experiments import screen
from experiments.loop import STEPS_PER_CALL, CompiledLoop
from experiments.rules import RULES
from support.errors import Diverged
from support.options import load_lesson
from support.snapshots import read_snapshot

SHORT = (
    "--max-steps 900 --train-start 100 --q-validation-size 150 --eval-every 300 --eval-steps 600"
)
MINE = {"HIDDEN_UNITS = 32  #": "MINE = 1.0  # mine\nHIDDEN_UNITS = 4  #"}


def make_loop(words="", env_id="MountainCar-v0"):
    """A `CompiledLoop` of run.py with options."""
    return CompiledLoop(load_lesson(ROOT / "run.py", words.split()), env_id).compile()


def take_steps(loop, n, seed=0):
    """Takes steps from the start of a training; gives what is drawn, and what `take_steps` does."""
    random = np.random.default_rng(seed)
    loop.initialize(seed)
    actions = loop.draw_actions(random, loop.lesson.TRAIN_EPSILON)
    starts = loop.rules.draw_starts(random, STEPS_PER_CALL)
    rows = loop.draw_rows(random, 1)
    state = starts[-1]
    end = loop.take_steps(1, n, state, 0, loop.empty_buffer(), actions, starts, rows)
    return state, actions, starts, rows, end


@pytest.mark.parametrize("env_id", RULES)
def test_the_rules_are_gymnasiums(env_id):
    env = gym.make(env_id)
    rules = RULES[env_id](env)
    step = tf.function(rules.step)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    ends = 0
    for i in range(2000):
        if i % 20 == 0 and env_id == "Acrobot-v1":  # which random actions would never end
            env.unwrapped.state = random.uniform(-3, 3, 4)
            observation = env.unwrapped._get_ob()
        state = tf.constant(np.array(env.unwrapped.state, np.float64))
        np.testing.assert_allclose(rules.observe(state), observation, atol=1e-6)
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        next_state, own_reward, own_terminated = step(state, tf.constant(action))
        np.testing.assert_allclose(rules.observe(next_state), observation, atol=1e-6)
        assert (own_reward, own_terminated) == (reward, terminated)
        if terminated or truncated:
            ends += 1
            observation, _ = env.reset()
    assert ends >= 10


@pytest.mark.parametrize("env_id", RULES)
def test_episodes_start_as_gymnasiums_do(env_id):
    env = gym.make(env_id)
    ours = RULES[env_id](env).draw_starts(np.random.default_rng(0), 1000)
    theirs = []
    for seed in range(1000):
        env.reset(seed=seed)
        theirs.append(env.unwrapped.state)
    for figure in (np.min, np.max, np.mean):
        np.testing.assert_allclose(figure(ours, 0), figure(theirs, 0), atol=0.01)


@pytest.mark.parametrize("env_id", RULES)
def test_the_loop_remembers_what_gymnasium_answers(env_id):
    n = 1200
    loop = make_loop("--train-epsilon 1 --train-start 10000", env_id)
    state, actions, starts, _, (taken, _, _, _, buffer) = take_steps(loop, n)
    assert taken == n
    env = gym.make(env_id)
    env.reset()
    env.unwrapped.state = state
    expected, dones = [], 0
    for i in range(n):
        before = loop.rules.observe(tf.constant(np.array(env.unwrapped.state, np.float64)))
        after, reward, terminated, truncated, _ = env.step(int(actions[i]))
        expected.append((before, actions[i], reward, after, terminated or truncated))
        if terminated or truncated:
            dones += 1
            env.reset()
            env.unwrapped.state = starts[i]
    assert dones >= 2  # also at the time limit
    for ours, theirs in zip(buffer, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(ours[:n], np.array(theirs), atol=1e-6)


def test_an_update_in_the_loop_is_fit_batch():
    first, n, every = 10, 40, 7
    loop = make_loop(f"--train-epsilon 0.5 --train-start {first} --target-update-every {every}")
    _, _, _, rows, (_, loss, _, _, buffer) = take_steps(loop, n)
    keras.utils.set_random_seed(0)
    env = gym.make("MountainCar-v0")
    model = run.create_model(env)
    target_model = keras.models.clone_model(model)
    target_model.set_weights(model.get_weights())
    start = model.get_weights()
    for step in range(first, n + 1):
        if step % every == 0:
            target_model.set_weights(model.get_weights())
        batch = tuple(column.numpy()[rows[step - 1]] for column in buffer)
        own_loss = run.fit_batch(env, model, target_model, batch)
    assert max(np.abs(a - b).max() for a, b in zip(start, model.get_weights(), strict=True)) > 0.01
    np.testing.assert_allclose(loss, own_loss, rtol=1e-5)
    for ours, theirs in (
        (loop.model.get_weights(), model.get_weights()),
        (loop.target_model.get_weights(), target_model.get_weights()),
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_batches_come_from_what_the_buffer_holds():
    loop = make_loop("--replay-buffer-size 30 --batch-size 500")
    rows = loop.draw_rows(np.random.default_rng(0), 1)
    assert rows[0].max() == 0
    assert (rows[9].min(), rows[9].max()) == (0, 9)
    assert (rows[-1].min(), rows[-1].max()) == (0, 29)
    loop = make_loop("--replay-buffer-size 30 --train-epsilon 1")
    _, actions, _, _, (*_, buffer) = take_steps(loop, 70)
    np.testing.assert_array_equal(buffer[1], [*actions[60:70], *actions[40:60]])


def test_an_average_is_that_of_evaluate_within_chance(env):
    loop = make_loop()
    snapshot = ROOT / "example-log" / "example-best.h5"
    loop.model.load_weights(snapshot)
    model = run.create_model(env)
    model.load_weights(snapshot)
    theirs, episodes = run.evaluate(env, model, 5)
    ours, own_episodes = loop.evaluate(5)
    assert abs(episodes - own_episodes) <= 5
    assert abs(ours - theirs) < 5  # returns scatter by 12, and each is a mean of a hundred


def test_with_random_actions_an_average_is_that_of_evaluate_within_chance():
    env = gym.make("CartPole-v1")
    run.EVAL_EPSILON, run.EVAL_STEPS = 1.0, 20000
    theirs, episodes = run.evaluate(env, run.create_model(env), 5)
    ours, own_episodes = make_loop("--eval-epsilon 1 --eval-steps 20000", "CartPole-v1").evaluate(5)
    assert min(episodes, own_episodes) > 500
    assert abs(ours - theirs) < 2  # returns scatter by 12, and each is a mean of 900


def test_the_network_starts_as_in_run(env):
    loop = make_loop()
    loop.initialize(run.spawn_seeds(3)["weights"])
    run.set_seed(env, 3)
    for a, b in zip(loop.model.get_weights(), run.create_model(env).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_seed_is_the_same_run_whatever_was_trained_before():
    loop = make_loop(SHORT)
    second, first = loop.train(2), loop.train(1)
    assert first[:, 0].tolist() == [300, 600, 900]
    assert not np.array_equal(first[:, 2], second[:, 2])
    again = make_loop(SHORT).train(1)
    np.testing.assert_array_equal(np.delete(first, 3, 1), np.delete(again, 3, 1))


def test_epsilon_is_the_probability_of_a_random_action():
    actions = make_loop().draw_actions(np.random.default_rng(0), 0.25)
    assert np.mean(actions >= 0) == pytest.approx(0.25, abs=0.03)
    assert {*actions} == {-1, 0, 1, 2}


def test_a_run_that_diverges_says_when():
    with pytest.raises(Diverged, match=r"the loss is (inf|nan) at step 10\d$"):
        make_loop(f"{SHORT} --learning-rate 1000000").train(0)


@pytest.mark.slow
def test_it_learns():
    returns = make_loop("--max-steps 20000 --eval-every 2500", "CartPole-v1").train(0)[:, 1]
    assert returns[0] < 30 and returns.max() > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--name NAME is missing"),
        ("--name x --env Pendulum-v1", "python -m experiments.grid trains in any environment"),
        ("--name x --log-every 10", "--log-every would change nothing here: LOG_EVERY"),
        ("--name x --hidden-units 0", "--hidden-units"),
        ("--name ../x", "--name"),
        ("--name there", "there-screen exists"),
        ("--name x --max-steps 1000", "MAX_STEPS 1000 must be greater than TRAIN_START 2000"),
        ("--name x --replay-buffer-size 900000000", "REPLAY_BUFFER_SIZE 900000000 would need"),
    ],
)
def test_wrong_input_creates_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there-screen").mkdir()
    assert exit_status(screen.main, *words.split()) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1
    assert os.listdir() == ["there-screen"]


def test_each_seed_has_its_own_random_numbers_in_the_network_too(change_lesson):
    dropout = "    hidden = keras.layers.Dropout(0.5)(hidden)\n"
    change_lesson({"    q_values = keras": f"{dropout}    q_values = keras"})
    loop = CompiledLoop(screen.run, "MountainCar-v0").compile()
    states = []
    for seed in (1, 2, 1):
        loop.initialize(seed)
        states.append([v.numpy().tolist() for v in loop.model.variables if "seed" in v.name])
    assert states[0] and states[0] == states[2] != states[1]


@pytest.fixture
def change_lesson(tmp_path, monkeypatch):
    """Lets the screen use a run.py in which texts are replaced, from an empty directory."""

    def change(replacements):
        source = (ROOT / "run.py").read_text()
        for old, new in replacements.items():
            assert old in source
            source = source.replace(old, new)
        (tmp_path / "run.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(screen, "ROOT", tmp_path)
        monkeypatch.setattr(screen.Shared, "lesson", tmp_path / "run.py")
        monkeypatch.setattr(screen.Shared, "loops", {})
        monkeypatch.setattr(screen, "run", load_lesson(tmp_path / "run.py"))

    return change


@pytest.mark.parametrize(
    "changes",
    [
        {"return loss\n": "return loss * MINE\n"},
        {
            "te = LEARNING_RATE\n": "te = RATE\n",
            "import tqdm\n": "import tqdm\nRATE = 0.01 * MINE\n",
        },
        {"HIDDEN_UNITS, activation": "int(4 * MINE), activation"},
    ],
    ids=["fit_batch", "computed from it", "create_model"],
)
def test_a_constant_of_ones_own_acts(changes, change_lesson):
    change_lesson(MINE | changes)
    screen.check_settings(screen.parse_args(["--name", "m", "--mine", "1", "0.5"]))


def test_a_constant_that_acts_with_another_one_acts(change_lesson):
    change_lesson(
        {
            "HIDDEN_UNITS = 32  #": 'MINE = 1.0\nKIND = "none"\nHIDDEN_UNITS = 4  #',
            "return loss\n": "return loss * MINE if KIND == 'mine' else loss\n",
        }
    )
    for words in ("--mine 0.5 2 --kind none mine", "--kind other mine"):
        screen.check_settings(screen.parse_args(["--name", "m", *words.split()]))


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({}, 2, "MINE makes no difference to create_model, predict and fit_batch"),
        (
            {"        done = term": "        reward *= MINE\n        done = term"},
            2,
            "if train uses it, compare with python -m experiments.grid",
        ),
        ({"return loss\n": "return lost\n"}, 1, "name 'lost' is not defined (run.py, line"),
        ({"@compiled\ndef fit": "def fit"}, 2, "fit_batch is not @compiled, so that run.py runs"),
        ({"return loss\n": "return loss, 1\n"}, 1, "has to return the loss, a number, not (np.f"),
    ],
    ids=["nowhere", "train", "mistake", "not compiled", "wrong result"],
)
def test_a_constant_that_would_do_nothing_is_refused(
    changes, status, message, change_lesson, tmp_path, capsys
):
    change_lesson(MINE | changes)
    assert exit_status(screen.main, "--name", "m", "--mine", "0.5") == status
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1
    assert os.listdir(tmp_path) == ["run.py"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tf.print(loss)", "can't have the operation StringFormat"),
        ("if loss > 1: loss += 1", "a symbolic `tf.Tensor` as a Python `bool`"),
        ("targets[0, 1, 2]", "Index out of range using input dim 1"),
    ],
)
def test_a_mistake_in_fit_batch_is_told_with_its_line(line, message, change_lesson, tmp_path):
    change_lesson({"    return loss\n": f"    {line}\n    return loss\n"})
    (planned,) = screen.parse_args(["--name", "m", "--seeds", "1"]).runs
    evaluations, failed, is_mistake = screen.train_one(0, planned)
    assert evaluations is None and is_mistake
    number = (tmp_path / "run.py").read_text().splitlines().index(f"    {line}") + 1
    assert message in failed and f"run.py, line {number}" in failed
    assert len(failed) < 450


def test_what_xla_would_not_notice_is_a_mistake(change_lesson):
    change_lesson(
        {"    return loss\n": "    tf.debugging.assert_less(loss, -1.0)\n    return loss\n"}
    )
    (planned,) = screen.parse_args(["--name", "m", "--seeds", "1"]).runs
    _, failed, is_mistake = screen.train_one(0, planned)
    assert is_mistake and failed.startswith("InvalidArgumentError: assertion failed: [Condition")
    assert failed.endswith("run with --eager to see it.")


@pytest.mark.slow
def test_a_mistake_stops_the_screen(tmp_path):
    changes = {"    return loss\n": "    return lost\n"}
    process = start_experiment("screen", tmp_path, "--name", "m", replacements=changes)
    status, output, errors = finish(process)
    assert (status, errors) == (1, "screen.py: stopped by a mistake in the code\n")
    assert "NameError: name 'lost' is not defined (run.py, line" in output
    assert len(output.splitlines()) < 10
    assert not (tmp_path / "m-screen").exists()


@pytest.mark.slow
def test_a_screen_ends_with_the_tables_of_a_grid(tmp_path):
    words = f"--name m --seeds 2 --first-seed 5 --train-epsilon 0.1 1 --env CartPole {SHORT}"
    status, output, errors = finish(start_experiment("screen", tmp_path, *words.split()))
    assert (status, errors) == (0, "")
    assert "What counts here is create_model, predict, fit_batch and the constants" in output
    assert "4 runs, " in output and "GB of memory" in output
    assert "train_epsilon=1.0" in output and "P(better)" in output
    folder = tmp_path / "m-screen"
    snapshots = {f"train_epsilon={x},seed={seed}-900.h5" for x in (0.1, 1.0) for seed in (5, 6)}
    assert {*os.listdir(folder)} == {"results.csv", "summary.csv", "curves.png", *snapshots}
    results = pd.read_csv(folder / "results.csv")
    assert len(results) == 4 * 3
    assert {*results["seed"]} == {5, 6} and {*results["env"]} == {"CartPole-v1"}
    one_setting = f"--train-epsilon 0.1 --env CartPole {SHORT}"
    lesson = load_lesson(ROOT / "run.py", one_setting.split())
    loop = CompiledLoop(lesson, "CartPole-v1").compile()
    expected = loop.train(6)
    one = results[(results["seed"] == 6) & (results["train_epsilon"] == 0.1)]
    columns = ["step", "return", "avg_max_q_value", "episodes"]
    np.testing.assert_allclose(one[columns], expected[:, [0, 1, 2, 4]], rtol=1e-4)
    snapshot = read_snapshot(folder / "train_epsilon=0.1,seed=6-900.h5")
    assert snapshot.settings == {**lesson.options.settings, "seed": 6}
    for weight, expected_weight in zip(snapshot.weights, loop.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected_weight, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_what_is_finished(number, tmp_path):
    words = "--name m --seeds 500 --max-steps 3000 --eval-every 3000 --eval-steps 500"
    process = start_experiment("screen", tmp_path, *words.split())
    read_until("2 of 500 done", process)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    read_until("Stopping", process)
    process.send_signal(signal.SIGINT)  # impatience does no harm
    status, output, errors = finish(process)
    assert (status, errors) == (130, "")
    finished = pd.read_csv(tmp_path / "m-screen" / "results.csv")["seed"].nunique()
    assert 2 <= finished < 500
    assert f"Stopped. {finished} of 500 runs had finished." in output


@pytest.mark.slow
def test_a_process_that_dies_is_told_with_a_remedy(tmp_path):
    changes = {"    return loss\n": "    os.kill(os.getpid(), 9)\n    return loss\n"}
    process = start_experiment("screen", tmp_path, "--name", "m", replacements=changes)
    status, _, errors = finish(process)
    assert status == 1
    assert errors == (
        "screen.py: a process was killed, perhaps for lack of memory; try it with fewer --cores\n"
    )
    assert not (tmp_path / "m-screen").exists()


@pytest.mark.slow
def test_no_process_stays_when_the_screen_is_killed(tmp_path):
    process = start_experiment("screen", tmp_path, "--name", "m", "--seeds", "4")
    read_until("at a time", process)
    process.kill()
    process.communicate(timeout=60)  # its processes hold the pipes open as long as they live


def test_memory_bounds_the_number_of_processes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    args = screen.parse_args(["--name", "m", "--seeds", "30", "--hidden-units", "8", "16"])
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    free = screen.psutil.virtual_memory()._replace(available=3.5 * 1024**3)
    monkeypatch.setattr(screen.psutil, "virtual_memory", lambda: free)
    assert screen.share_memory(args) == (3, pytest.approx(1.02))
    args.cores = 2
    assert screen.share_memory(args)[0] == 2
