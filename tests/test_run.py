"""What the functions of the lesson promise."""

import gymnasium as gym
import keras
import numpy as np
import pytest

import run
from replay_buffer import ReplayBuffer


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


def test_layer_normalization_gives_each_hidden_layer_sums_of_mean_square_1(env):
    run.LAYER_NORMALIZATION = True
    model = run.create_model(env)
    normalizations = [
        layer for layer in model.layers if isinstance(layer, keras.layers.RMSNormalization)
    ]
    assert len(normalizations) == 2
    outputs = keras.Model(model.inputs, [layer.output for layer in normalizations])
    observations = np.array([[-1.2, -0.07], [0.5, 0.05]], np.float32)
    for sums in outputs([observations, np.ones((2, 3))]):
        np.testing.assert_allclose(np.mean(np.square(sums), axis=1), 1, atol=0.01)
    relus = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    assert [relu.input for relu in relus] == [layer.output for layer in normalizations]


@pytest.mark.parametrize(
    "decay, expected", [(1.0, [0.001, 0.001, 0.001]), (0.01, [0.001, 0.000505, 0.00001])]
)
def test_the_learning_rate_falls_linearly_until_the_last_step(decay, expected, monkeypatch):
    monkeypatch.setattr(run, "LEARNING_RATE_DECAY", decay)
    optimizer = run.create_optimizer()
    rates = []
    for step in (2000, 101000, 200000):  # the first update, one in the middle, the last
        optimizer.iterations.assign(step - run.TRAIN_START)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


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
        assert type(run.greedy_action(env, model, observation)) is int
        assert run.epsilon_greedy_action(env, model, observation, epsilon=0) == q_values.argmax()


def test_a_share_epsilon_of_the_actions_is_random(env, model):
    env.action_space.seed(0)
    observation = np.array([-0.5, 0.0], np.float32)
    greedy = run.greedy_action(env, model, observation)
    actions = [run.epsilon_greedy_action(env, model, observation, 0.3) for _ in range(3000)]
    assert {type(action) for action in actions} == {int}
    # A random action is the greedy one a third of the time; the standard deviation is 22.
    assert abs(np.sum(np.array(actions) != greedy) - 600) < 5 * 22


def test_the_average_return_is_the_mean_over_completed_episodes(model):
    # 3 + 4 + 5 + 3 steps are four episodes; the fifth is not over after 3 more.
    run.EVAL_STEPS = 18
    assert run.evaluate(Scripted(), model) == (-15 / 4, 4)


def test_the_average_return_of_no_completed_episode_is_not_a_number(model):
    run.EVAL_STEPS = 2
    episode_return_avg, episodes = run.evaluate(Scripted(), model)
    assert np.isnan(episode_return_avg) and episodes == 0


def test_an_evaluation_with_a_seed_is_reproducible(env, model):
    run.EVAL_STEPS = 500
    run.EVAL_EPSILON = 0.1
    first, again, other = (
        run.evaluate(gym.make("CartPole-v1"), cart_pole_model(), seed) for seed in (3, 3, 4)
    )
    assert first == again != other


def cart_pole_model():
    keras.utils.set_random_seed(0)
    return run.create_model(gym.make("CartPole-v1"))


def stream(generator):
    """What tells one random generator's stream of numbers from another's, wherever it stands."""
    return generator.bit_generator.state["state"]["inc"]


def test_one_seed_gives_streams_of_random_numbers_that_are_independent(model):
    seeds = run.spawn_seeds(1)
    assert run.spawn_seeds(1) == seeds != run.spawn_seeds(2)
    env, eval_env = gym.make("MountainCar-v0"), gym.make("MountainCar-v0")
    run.set_seed(env, 1)
    run.EVAL_STEPS = 1
    run.evaluate(eval_env, model, 1)
    buffer = ReplayBuffer(1, env.observation_space, seeds["replay_buffer"])
    generators = [buffer.random, np.random.default_rng(seeds["weights"])]
    for each in (env, eval_env):
        generators += [each.unwrapped.np_random, each.action_space.np_random]
    assert len(set(map(stream, generators))) == len(generators) == 6
