"""`fit_batch` does what Keras's own `predict` and `fit` do, only sooner."""

import gymnasium as gym
import keras
import numpy as np
import pytest

import run
from replay_buffer import ReplayBuffer

BATCHES = 30
TARGET_UPDATE_EVERY = 25


def plain_keras_fit_batch(env, model, target_model, batch):
    """The update as an introduction to Keras would write it."""
    observations, actions, rewards, next_observations, dones = batch
    all_actions = np.ones((len(actions), env.action_space.n))
    next_q_values = target_model.predict([next_observations, all_actions], verbose=0)
    discount = run.DISCOUNT_FACTOR_GAMMA**run.N_STEPS
    targets = rewards + discount * next_q_values.max(axis=1) * ~dones
    taken = np.eye(env.action_space.n)[actions]
    history = model.fit(
        [observations, taken],
        taken * targets[:, None],
        batch_size=len(actions),
        shuffle=False,
        verbose=0,
    )
    return history.history["loss"][0]


def filled_buffer(env, steps):
    size, gamma = run.REPLAY_BUFFER_SIZE, run.DISCOUNT_FACTOR_GAMMA
    buffer = ReplayBuffer(size, env.observation_space, 0, run.N_STEPS, gamma)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        next_observation, reward, terminated, truncated, _ = env.step(action)
        buffer.add(observation, action, reward, next_observation, terminated or truncated)
        observation = env.reset()[0] if terminated or truncated else next_observation
    return buffer


def relative_difference(arrays, others):
    """The largest difference in an array, relative to its largest number."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(arrays, others, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("n_steps, layer_normalization", [(1, False), (3, True)])
def test_fit_batch_equals_predict_and_fit_over_many_batches(n_steps, layer_normalization):
    run.N_STEPS, run.LAYER_NORMALIZATION = n_steps, layer_normalization
    env = gym.make("MountainCar-v0")
    keras.utils.set_random_seed(0)
    ours, plain, target = run.create_model(env), run.create_model(env), run.create_model(env)
    plain.set_weights(ours.get_weights())
    target.set_weights(ours.get_weights())
    buffer = filled_buffer(env, 4000)
    for number in range(1, BATCHES + 1):
        batch = buffer.sample(64)
        loss = run.fit_batch(env, ours, target, batch)
        plain_loss = plain_keras_fit_batch(env, plain, target, batch)
        tolerance = 1e-6 if number == 1 else 1e-4
        assert abs(loss - plain_loss) <= tolerance * abs(plain_loss)
        assert relative_difference(ours.get_weights(), plain.get_weights()) <= tolerance
        if number % TARGET_UPDATE_EVERY == 0:
            target.set_weights(plain.get_weights())
    states = [[v.numpy() for v in model.optimizer.variables] for model in (ours, plain)]
    assert relative_difference(*states) <= 1e-4


def test_fit_batch_changes_the_q_value_of_the_action_taken_only_through_shared_weights():
    env = gym.make("MountainCar-v0")
    keras.utils.set_random_seed(1)
    model, target = run.create_model(env), run.create_model(env)
    *_, kernel, bias = model.get_weights()
    observations = np.zeros((4, 2), np.float32)
    ones = np.ones(4, np.float32)
    batch = observations, np.full(4, 2), -ones, observations, np.zeros(4, bool)
    run.fit_batch(env, model, target, batch)
    *_, new_kernel, new_bias = model.get_weights()
    assert np.array_equal(new_kernel[:, :2], kernel[:, :2])
    assert new_bias[:2].tolist() == bias[:2].tolist()
    assert new_bias[2] < bias[2]


def test_nothing_is_expected_after_the_end_of_an_episode(monkeypatch):
    monkeypatch.setattr(run, "DISCOUNT_FACTOR_GAMMA", 0.9)
    env = gym.make("MountainCar-v0")
    keras.utils.set_random_seed(2)
    model, target = run.create_model(env), run.create_model(env)
    observations = np.array([[-0.5, 0.01], [0.4, 0.03]], np.float32)
    actions, rewards, dones = np.array([0, 1]), np.full(2, -1.0), np.array([False, True])
    next_q_values = run.predict(env, target, observations).max(axis=1)
    q_values = run.predict(env, model, observations)[[0, 1], actions]
    errors = q_values - np.array([-1 + 0.9 * next_q_values[0], -1])
    batch = observations, actions, rewards, observations, dones
    loss = run.fit_batch(env, model, target, batch)
    assert np.isclose(loss, (errors**2).sum() / 6)  # the mean over 2 rows and 3 actions


def test_gradients_are_clipped_to_norm_1_over_all_weights_together():
    env = gym.make("MountainCar-v0")
    keras.utils.set_random_seed(3)
    model, target = run.create_model(env), run.create_model(env)
    model.compile(keras.optimizers.SGD(1.0, global_clipnorm=model.optimizer.global_clipnorm), "mse")
    before = model.get_weights()
    observations = np.full((64, 2), 100.0, np.float32)
    batch = observations, np.zeros(64, int), np.full(64, -1e4), observations, np.ones(64, bool)
    run.fit_batch(env, model, target, batch)
    steps = [a - b for a, b in zip(model.get_weights(), before, strict=True)]
    assert np.isclose(np.sqrt(sum((step**2).sum() for step in steps)), 1.0, rtol=1e-4)
