"""The compiled loop does what run.py does."""

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

import run
from experiments.common.compiled_loop import STEPS_PER_CALL, CompiledLoop
from experiments.common.dynamics import DYNAMICS
from replay_buffer import ReplayBuffer
from support.errors import Diverged
from support.options import load_lesson

SHORT = (
    "--max-steps 900 --train-start 100 --q-validation-size 150 --eval-every 300 --eval-steps 600"
)


def make_loop(words="", env_id="MountainCar-v0"):
    """A `CompiledLoop` of run.py with options."""
    return CompiledLoop(load_lesson(ROOT / "run.py", words.split()), env_id)


def take_steps(loop, n, seed=0):
    """Takes steps from the start of a training; gives what is drawn, and what `take_steps` does."""
    random = np.random.default_rng(seed)
    loop.initialize(seed)
    actions = loop.draw_actions(random, loop.lesson.TRAIN_EPSILON)
    starts = loop.dynamics.draw_starts(random, STEPS_PER_CALL)
    rows = loop.draw_rows(random, 1)
    state = starts[-1]
    *others, buffer = loop.compiled_steps(
        1, n, state, 0, tf.zeros(loop.buffer_shape), actions, starts, rows
    )
    return state, actions, starts, rows, (*others, loop.columns(buffer))


@pytest.mark.parametrize("env_id", DYNAMICS)
def test_the_dynamics_are_gymnasiums(env_id):
    env = gym.make(env_id)
    dynamics = DYNAMICS[env_id](env)
    step = tf.function(dynamics.step)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    ends = 0
    for i in range(2000):
        if i % 20 == 0 and env_id == "Acrobot-v1":  # which random actions would never end
            env.unwrapped.state = random.uniform(-3, 3, 4)
            observation = env.unwrapped._get_ob()
        state = tf.constant(np.array(env.unwrapped.state, np.float64))
        np.testing.assert_allclose(dynamics.observe(state), observation, atol=1e-6)
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        next_state, own_reward, own_terminated = step(state, tf.constant(action))
        np.testing.assert_allclose(dynamics.observe(next_state), observation, atol=1e-6)
        assert (own_reward, own_terminated) == (reward, terminated)
        if terminated or truncated:
            ends += 1
            observation, _ = env.reset()
    assert ends >= 10


@pytest.mark.parametrize("env_id", DYNAMICS)
def test_episodes_start_as_gymnasiums_do(env_id):
    env = gym.make(env_id)
    ours = DYNAMICS[env_id](env).draw_starts(np.random.default_rng(0), 1000)
    theirs = []
    for seed in range(1000):
        env.reset(seed=seed)
        theirs.append(env.unwrapped.state)
    for figure in (np.min, np.max, np.mean):
        np.testing.assert_allclose(figure(ours, 0), figure(theirs, 0), atol=0.01)


@pytest.mark.parametrize("env_id", DYNAMICS)
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
        before = loop.dynamics.observe(tf.constant(np.array(env.unwrapped.state, np.float64)))
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


def test_rewards_are_summed_as_the_replay_buffer_does():
    n, n_steps = 70, 3  # steps, of which the buffer keeps 30
    words = f"--replay-buffer-size 30 --train-epsilon 1 --train-start 1000 --n-steps {n_steps}"
    loop = make_loop(words, "CartPole-v1")
    *_, (*_, buffer) = take_steps(loop, n)
    replay_buffer = ReplayBuffer(30, loop.env.observation_space, 0, n_steps, 0.99)
    columns = [column.numpy() for column in buffer]
    for row in (n + np.arange(30)) % 30:
        replay_buffer.add(*[column[row] for column in columns])
    assert replay_buffer.dones.sum() >= 2
    rows = loop.draw_rows(np.random.default_rng(0), n)[0]
    assert (rows.min(), rows.max()) == (0, 27)
    packed = tf.stack([tf.cast(column, tf.float32) for column in buffer[1:3] + buffer[4:]], axis=1)
    packed = tf.concat([buffer[0], buffer[3], packed], axis=1)
    ours = loop.look_ahead(packed, rows, n)
    expected_rewards, last_rows = replay_buffer.look_ahead(rows)
    np.testing.assert_allclose(ours[2], expected_rewards, rtol=1e-6)
    np.testing.assert_array_equal(ours[0], replay_buffer.observations[rows])
    np.testing.assert_array_equal(ours[3], replay_buffer.next_observations[last_rows])
    np.testing.assert_array_equal(ours[4], replay_buffer.dones[last_rows])


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
    assert [evaluation.step for evaluation in first] == [300, 600, 900]
    assert [evaluation.avg_max_q_value for evaluation in first] != [
        evaluation.avg_max_q_value for evaluation in second
    ]
    again = make_loop(SHORT).train(1)
    assert [evaluation._replace(seconds=0) for evaluation in first] == [
        evaluation._replace(seconds=0) for evaluation in again
    ]


def test_epsilon_is_the_probability_of_a_random_action():
    actions = make_loop().draw_actions(np.random.default_rng(0), 0.25)
    assert np.mean(actions >= 0) == pytest.approx(0.25, abs=0.03)
    assert {*actions} == {-1, 0, 1, 2}


def test_a_run_that_diverges_says_when():
    with pytest.raises(Diverged, match=r"the loss is (inf|nan) at step 10\d$"):
        make_loop(f"{SHORT} --learning-rate 1000000").train(0)


@pytest.mark.slow
def test_it_learns():
    evaluations = make_loop("--max-steps 20000 --eval-every 2500", "CartPole-v1").train(0)
    returns = np.array([evaluation.episode_return_avg for evaluation in evaluations])
    assert returns[0] < 30 and returns.max() > 100


def test_each_seed_has_its_own_random_numbers_in_the_network_too(tmp_path):
    source = (ROOT / "run.py").read_text()
    dropout = "    hidden = keras.layers.Dropout(0.5)(hidden)\n"
    source = source.replace("    q_values = keras", f"{dropout}    q_values = keras")
    (tmp_path / "run.py").write_text(source)
    loop = CompiledLoop(load_lesson(tmp_path / "run.py"), "MountainCar-v0")
    states = []
    for seed in (1, 2, 1):
        loop.initialize(seed)
        states.append([v.numpy().tolist() for v in loop.model.variables if "seed" in v.name])
    assert states[0] and states[0] == states[2] != states[1]


def test_compiling_is_not_counted_as_training(monkeypatch):
    """By a clock that advances while the loop is compiled, and at each report."""
    loop = make_loop(SHORT)
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    compile_now = loop.compile_now
    monkeypatch.setattr(loop, "compile_now", lambda: [compile_now(), now.append(now.pop() + 1000)])
    draw_rows = loop.draw_rows
    monkeypatch.setattr(loop, "draw_rows", lambda *args: [draw_rows(*args), step_clock(now)][0])
    evaluations = loop.train(0)
    assert [evaluation.seconds for evaluation in evaluations] == [2.0, 3.0, 4.0]


def step_clock(now):
    """Lets a second pass for each call of the loop: up to 150 and 300, to 600, and to 900 steps."""
    now[0] += 1
