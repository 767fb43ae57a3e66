"""Whole training runs from the command line, short ones."""

import os
import re
import signal
import sys
from collections import Counter
from itertools import pairwise

import gymnasium as gym
import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT, main
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run
from support import runs
from support.checkpoints import read_checkpoint
from support.errors import Diverged, WrongInput
from support.options import load_lesson
from support.snapshots import read_snapshot

SHORT = (
    "--train-start 100 --batch-size 16 --q-validation-size 200 --target-update-every 100 "
    "--max-steps 1200 --eval-every 400 --eval-steps 450 --snapshot-every 600 --log-every 200 "
    "--checkpoint-every 300"
).split()
TIMINGS = {"episode_seconds", "steps_per_second", "memory_used"}


def scalars(logdir):
    events = EventAccumulator(str(logdir), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def arrays(filename):
    """Every array of an .h5 file: weights and the optimizer's state."""
    found = {}
    with h5py.File(filename) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None
        )
    return found


def same_arrays(filename, other):
    ours, theirs = arrays(filename), arrays(other)
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True)
    )


@pytest.mark.slow
def test_two_runs_with_one_seed_are_bit_identical_and_another_seed_is_not(command, tmp_path):
    for name, seed in [("a", 5), ("b", 5), ("c", 6)]:
        status, _, errors = command("--name", name, "--seed", seed, *SHORT, "--train-epsilon", 0.5)
        assert (status, errors) == (0, "")
    a, b, c = (scalars(tmp_path / f"{name}-log") for name in "abc")
    for tag in a.keys() - TIMINGS:
        assert a[tag] == b[tag]
    assert a["loss"] != c["loss"]
    for step in ("600", "1200", "best"):
        assert same_arrays(f"a-log/a-{step}.h5", f"b-log/b-{step}.h5")
    assert not same_arrays("a-log/a-1200.h5", "c-log/c-1200.h5")


def test_a_run_prints_and_writes_what_the_readme_says(command, tmp_path):
    status, output, errors = command("--name", "x", "--seed", 1, *SHORT)
    assert (status, errors) == (0, "")
    assert "Seed 1\n" in output
    assert "observations_input" in output
    assert "Created x-log\n" in output
    line = (
        r"^episode 1 steps 200/200 loss \d\.\d{7} return -200\.0 "
        r"in \d+\.\d\ds \d+\.\d steps/s \d+\.\d/\d+\.\d GB RAM$"
    )
    assert re.search(line, output, re.MULTILINE)
    line = (
        r"^Evaluation\nepisode 2 step 400 episode_return_avg -200\.000 avg_max_q_value -\d\.\d{3} "
        r"over 2 episodes$"
    )
    assert re.search(line, output, re.MULTILINE)
    for step in (600, 1200):
        assert f"Saved x-log/x-{step}.h5\n" in output
    assert "Saved x-log/x-best.h5\n" in output
    assert output.endswith(
        "Best: episode_return_avg -200.000 over 2 episodes at step 400, no better than the first "
        "episode of the run (-200.0). Train longer, or change a setting.\n"
    )
    names = Counter(path.name.split(".")[0] for path in (tmp_path / "x-log").glob("[!.]*"))
    assert names == {"events": 1, "checkpoint": 1, "x-600": 1, "x-1200": 1, "x-best": 1}
    found = scalars("x-log")
    logged = [step for step, _ in found["loss"]]
    assert logged == [200, 400, 600, 800, 1000, 1200]
    for tag in ("episode_return", "episode_steps", *TIMINGS):
        assert [step for step, _ in found[tag]] == logged
    for tag in ("episode_return_avg", "avg_max_q_value"):
        assert [step for step, _ in found[tag]] == [400, 800, 1200]
    assert len(found) == 8


@pytest.mark.slow
def test_keras_opens_the_snapshots(command):
    command("--name", "x", "--seed", 1, *SHORT)
    env = gym.make("MountainCar-v0")
    observations = np.array([[-0.5, 0.0], [0.1, 0.02]], np.float32)
    theirs = keras.models.load_model("x-log/x-1200.h5")
    ours = run.load_or_create_model(env, "x-log/x-1200.h5")
    q_values = theirs.predict([observations, np.ones((2, 3))], verbose=0)
    np.testing.assert_allclose(run.predict(env, ours, observations), q_values, rtol=1e-6)


@pytest.mark.slow
def test_evaluating_a_snapshot_twice_with_one_seed_prints_the_same(command):
    command("--env", "CartPole-v1", "--name", "x", "--seed", 1, *SHORT)
    evaluation = ["--model", "x-log/x-best.h5", "--eval", "--eval-steps", 2000]
    lines = []
    for seed in (9, 9, 10):
        status, output, errors = command(*evaluation, "--seed", seed, "--eval-epsilon", 0.2)
        assert (status, errors) == (0, "")
        lines.append(output.splitlines()[-1])
    assert re.fullmatch(r"episode_return_avg \d+\.\d{3} over \d+ episodes", lines[0])
    assert lines[0] == lines[1] != lines[2]


@pytest.mark.slow
def test_an_evaluation_leaves_the_training_run_as_it_was(command):
    # The same training with and without evaluations, and with longer ones.
    command("--name", "a", "--seed", 3, *SHORT)
    command("--name", "b", "--seed", 3, *SHORT, "--eval-every", 1200)
    command("--name", "c", "--seed", 3, *SHORT, "--eval-steps", 777, "--eval-epsilon", 0.5)
    assert same_arrays("a-log/a-1200.h5", "b-log/b-1200.h5")
    assert same_arrays("a-log/a-1200.h5", "c-log/c-1200.h5")
    assert scalars("a-log")["episode_return"] == scalars("c-log")["episode_return"]


@pytest.mark.slow
def test_every_transition_stored_is_one_that_happened(command, monkeypatch):
    from replay_buffer import ReplayBuffer

    stored = []
    add = ReplayBuffer.add

    def add_and_note(self, *transition):
        stored.append(transition)
        add(self, *transition)

    monkeypatch.setattr(ReplayBuffer, "add", add_and_note)
    command("--name", "x", "--seed", 3, *SHORT)
    env = gym.make("MountainCar-v0")
    env.reset()
    assert len(stored) == 1200
    for observation, action, reward, next_observation, _ in stored:
        env.unwrapped.state = observation.astype(float)
        expected, *_ = env.unwrapped.step(action)
        np.testing.assert_allclose(next_observation, expected, atol=1e-6)
        assert reward == -1
    for (_, _, _, end, done), (start, *_) in pairwise(stored):
        assert done or np.array_equal(end, start)


def test_each_function_is_traced_once_in_a_whole_run(command, monkeypatch):
    calls = []
    original = keras.Model.__call__

    def call_and_note(self, *arguments, **options):
        calls.append(self)
        return original(self, *arguments, **options)

    monkeypatch.setattr(keras.Model, "__call__", call_and_note)
    command("--name", "x", "--seed", 3, *SHORT)
    # Python calls a model while it traces, and not for the 1,101 updates, 2,550 greedy actions and
    # 3 evaluations that follow: once for each of the update's two models, the greedy action in
    # training, that in evaluation, and the Q-values of the validation observations.
    assert len(calls) == 5
    assert len(set(calls)) == 2


def test_best_holds_the_weights_of_the_best_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    averages = iter([-150.0, -120.0, -130.0])
    weights = []

    def evaluate(env, model, seed):
        weights.append(model.get_weights())
        return next(averages), 50

    assert main(f"--name x --seed 3 {' '.join(SHORT)}", evaluate=evaluate) == -130.0
    best = run.load_or_create_model(gym.make("MountainCar-v0"), "x-log/x-best.h5").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(best, weights[1], strict=True))


@pytest.mark.slow
def test_a_model_starts_a_new_training_from_its_weights(command, tmp_path):
    command("--name", "a", "--seed", 3, *SHORT)
    two_steps = ["--train-start", 1, "--max-steps", 2, "--eval-steps", 1, "--seed", 4]
    two_steps += ["--learning-rate", 1e-12]
    assert command("--name", "b", "--model", "a-log/a-1200.h5", *two_steps)[0] == 0
    env = gym.make("MountainCar-v0")
    a = run.load_or_create_model(env, "a-log/a-1200.h5").get_weights()
    b = run.load_or_create_model(env, "b-log/b-2.h5").get_weights()
    assert all(np.allclose(x, y, atol=1e-9) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
def test_runs_started_in_one_minute_get_directories_of_their_own(command, tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "06-07-18-39")
    for _ in range(3):
        assert command("--train-start", 1, "--max-steps", 2, "--eval-steps", 1)[0] == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"06-07-18-39-log", "06-07-18-39-2-log", "06-07-18-39-3-log"}
    assert (tmp_path / "06-07-18-39-2-log" / "06-07-18-39-2-2.h5").exists()


@pytest.mark.slow
def test_a_run_without_a_seed_can_be_repeated_with_the_one_it_printed(command):
    _, output, _ = command("--name", "a", *SHORT)
    seed = re.search(r"^Seed (\d+)$", output, re.MULTILINE)[1]
    command("--name", "b", "--seed", seed, *SHORT)
    assert same_arrays("a-log/a-1200.h5", "b-log/b-1200.h5")


@pytest.mark.slow
def test_the_self_check_leaves_nothing_behind(command, tmp_path):
    status, output, errors = command("--test")
    assert (status, errors) == (0, "")
    assert output.endswith("The installation works: the network was trained, saved and loaded.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--max-steps", "--eval-every"])
def test_one_option_makes_a_run_with_early_evaluations(option, command):
    few = ["--train-start", 100, "--eval-steps", 210]
    few += ["--max-steps", 600] if option == "--eval-every" else []
    status, output, errors = command("--name", "x", "--seed", 1, *few, option, 300)
    assert (status, errors) == (0, "")
    told = "Q_VALIDATION_SIZE is reduced to 300, the step of the first evaluation\n"
    assert output.count(told) == 1
    assert "step 300 episode_return_avg -200.000" in output
    steps = [300] if option == "--max-steps" else [300, 600]
    assert [step for step, _ in scalars("x-log")["avg_max_q_value"]] == steps
    assert os.path.exists("x-log/x-best.h5")
    recorded = read_checkpoint("x-log")["run"]
    assert recorded["settings"]["q_validation_size"] == 300
    assert recorded["validation_observations"].shape == (300, 2)


@pytest.mark.parametrize(
    "words, size",
    [
        ("--q-validation-size 300 --eval-every 300", 300),
        ("--q-validation-size 301 --eval-every 300", 300),
        ("--q-validation-size 400 --eval-every 300 --max-steps 250 --train-start 1", 250),
        ("--q-validation-size 1 --eval-every 300", 1),
        ("--eval-every 20000 --max-steps 200000", 10000),
    ],
)
def test_validation_observations_are_no_more_than_steps_before_the_first_evaluation(
    words, size, capsys
):
    lesson = load_lesson(ROOT / "run.py", words.split())
    assert size == lesson.Q_VALIDATION_SIZE == lesson.options.settings["q_validation_size"]
    is_reduced = f"--q-validation-size {size}" not in words and size < 10000
    told = f"Q_VALIDATION_SIZE is reduced to {size}, the step of the first evaluation\n"
    assert capsys.readouterr().out == (told if is_reduced else "")


def test_whoever_evaluates_a_network_is_not_told_of_validation_observations(capsys):
    best = str(ROOT / "example-log" / "example-best.h5")
    load_lesson(ROOT / "run.py", ["--model", best, "--eval", "--eval-every", "300"])
    assert capsys.readouterr().out == ""


@pytest.fixture
def few_steps():
    """The constants of a short run, put into `run`."""
    run.TRAIN_START = 100
    run.MAX_STEPS = 400
    run.EVAL_STEPS = 210
    run.Q_VALIDATION_SIZE = 200


def trained_with(name):
    """The settings that a run's checkpoint and its last snapshot have recorded, which are equal."""
    recorded = read_checkpoint(f"{name}-log")["run"]
    settings = recorded["settings"]
    assert read_snapshot(f"{name}-log/{name}-{recorded['step']}.h5").settings == settings
    return settings


def test_a_python_prompt_trains_and_resumes_as_the_command_line_does(
    few_steps, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["prompt", "--nonsense"])
    words = "--train-start 100 --max-steps 400 --eval-steps 210 --q-validation-size 200 --seed 1"
    main(f"{words} --name command")
    capsys.readouterr()

    assert run.main(run.options.read("--name prompt --seed 1")) == -200
    output = capsys.readouterr().out
    assert "Created prompt-log\n" in output
    assert "no better than the first episode of the run (-200.0)" in output
    assert trained_with("prompt") == trained_with("command")
    weights = [read_checkpoint(f"{name}-log")["model"] for name in ("prompt", "command")]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[1])

    assert run.main(run.options.read("--resume prompt-log --max-steps 500")) == -200
    assert "Resumed prompt-log at step 400\n" in capsys.readouterr().out
    assert trained_with("prompt") == {**trained_with("command"), "max_steps": 500}


def test_what_is_recorded_is_what_is_trained_with_whenever_it_was_changed(
    few_steps, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run.LAYER_NORMALIZATION = True
    run.DISCOUNT_FACTOR_GAMMA = np.float64(0.5)  # an element of np.linspace, say
    options = run.options.read("--name changed")
    run.HIDDEN_UNITS = 8  # later still
    run.Q_VALIDATION_SIZE = 10000
    run.main(options)
    told = "Q_VALIDATION_SIZE is reduced to 400, the step of the first evaluation\n"
    assert capsys.readouterr().out.count(told) == 1
    changed = {"layer_normalization": True, "discount_factor_gamma": 0.5, "hidden_units": 8}
    changed |= {"q_validation_size": 400}
    assert trained_with("changed").items() >= {**changed, "seed": options.seed}.items()

    # Another program plays it so; here, the run that goes on gets its constants back.
    main("--model changed-log/changed-400.h5 --eval --eval-steps 5")
    run.DISCOUNT_FACTOR_GAMMA = 0.9
    run.main(run.options.read("--resume changed-log --max-steps 420"))
    assert run.DISCOUNT_FACTOR_GAMMA == 0.5
    assert trained_with("changed").items() >= {**changed, "max_steps": 420}.items()


def test_ctrl_c_ends_a_run_but_not_the_prompt_and_says_how_to_go_on_there(
    few_steps, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    own_update = run.fit_batch

    def stop(*arguments):
        run.fit_batch = own_update
        signal.raise_signal(signal.SIGINT)
        return own_update(*arguments)

    monkeypatch.setattr(run, "fit_batch", stop)
    run.DISCOUNT_FACTOR_GAMMA = 0.5
    with pytest.raises(KeyboardInterrupt):
        run.main(run.options.read("--name stopped"))
    *_, last_line = capsys.readouterr().out.splitlines()
    assert last_line.startswith("Stopped. To continue: run.main(")
    assert os.path.exists("stopped-log/stopped-100.h5")

    run.DISCOUNT_FACTOR_GAMMA = 0.9
    assert eval(last_line.removeprefix("Stopped. To continue: ")) == -200
    assert trained_with("stopped")["discount_factor_gamma"] == 0.5


@pytest.mark.parametrize("words", ["--test", "--eager", "--help"])
def test_a_prompt_refuses_the_options_that_only_the_program_has(words):
    with pytest.raises(WrongInput, match=words):
        run.options.read(words)


@pytest.mark.parametrize(
    "constant, value, message",
    [
        ("DISCOUNT_FACTOR_GAMMA", 5, "must be a number between 0.0 and 1.0, not '5'"),
        ("LAYER_NORMALIZATION", 1, "must be True or False, not '1'"),
        ("HIDDEN_UNITS", [8, 8], "must be an integer between 1 and 4096, not '[8, 8]'"),
        ("MAX_STEPS", 100, "100 must be greater than TRAIN_START 100"),
    ],
)
@pytest.mark.parametrize("is_read", [True, False])
def test_a_constant_that_cannot_be_is_refused_in_a_prompt(
    constant, value, message, is_read, few_steps, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    setattr(run, constant, value)
    with pytest.raises(WrongInput, match=re.escape(f"{constant} {message}")):
        run.main(run.options.read() if is_read else run.options)
    assert list(tmp_path.iterdir()) == []


BEST = "Best: episode_return_avg {:.3f} over 50 episodes at step {}, "


def test_the_last_line_names_the_program_as_it_was_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["../my project/double.py", "--name", "x"])
    assert runs.command("--resume x-log") == "python '../my project/double.py' --resume x-log"


@pytest.mark.parametrize(
    "averages, message",
    [
        (
            [-150.0, -109.5, -130.0],
            f"{BEST.format(-109.5, 800)}which solves the problem (the thr",
        ),
        ([-150.0, -120.0, -130.0], f"{BEST.format(-120, 800)}which doesn't solve the problem "),
        ([-200.0, -200.0, -200.0], f"{BEST.format(-200, 400)}no better than the first episode"),
    ],
)
def test_the_last_line_says_whether_the_best_solves_the_problem(
    averages, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    returns = iter(averages)
    words = f"--name x --seed 3 {' '.join(SHORT)}"
    main(words, evaluate=lambda env, model, seed: (next(returns), 50))
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith(message)
    offer = "To watch it: python run.py --model x-log/x-best.h5 --view"
    assert last_line.endswith(offer) == (max(averages) > -200)


@pytest.mark.parametrize("loss", ["inf", "nan"])
def test_a_loss_that_is_not_finite_ends_the_run(loss, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = f"--name x --seed 3 {' '.join(SHORT)}"
    with pytest.raises(Diverged, match=f"the loss is {loss} at step 100; nothing was saved"):
        main(words, fit_batch=lambda *arguments: np.float32(loss))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1"])
def test_other_environments_with_vectors_and_discrete_actions_train(command, env_id):
    status, output, errors = command("--env", env_id, "--name", "x", "--seed", 1, *SHORT)
    assert (status, errors) == (0, "")
    assert "step 1200 episode_return_avg" in output
