"""The training loop of run.py, compiled as a whole, so that no step goes through Python.

The network, its optimizer, the greedy action's Q-values and the update are those of run.py, called
from inside. The rest of `train`, `evaluate`, `epsilon_greedy_action` and ReplayBuffer is Python and
NumPy, which isn't possible inside; so this module has a second version of it, and dynamics.py one
of the environments. All that is random is drawn by NumPy before each call.
"""

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import time

import gymnasium as gym
import keras
import numpy as np
import tensorflow as tf

from experiments.common.dynamics import DYNAMICS
from replay_buffer import ReplayBuffer
from support.checkpoints import Evaluation
from support.environments import Checked, make_env
from support.errors import check_loss, check_memory

STEPS_PER_CALL = 2000  # of the compiled loop; in between, Python checks the loss, and says how far
WITHOUT_EFFECT = {  # wrappers that leave an environment as it is, the time limit aside
    Checked,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.RecordEpisodeStatistics,
    gym.wrappers.TimeLimit,
}


def why_not_compilable(lesson, env):
    """Why a lesson can't be trained in an environment by a `CompiledLoop`: a string, or None.

    Args:
        lesson: run.py, loaded by `load_lesson`.
        env: environment of `make_env`.
    """
    for function in (lesson.predict, lesson.fit_batch):
        if not hasattr(function, "__wrapped__"):
            return f"{function.__name__} is not @compiled"
    is_gymnasiums = type(env.unwrapped).__module__.startswith("gymnasium.envs.classic_control")
    wrappers = set()
    while isinstance(env, gym.Wrapper):
        wrappers.add(type(env))
        env = env.env
    if env.spec.id not in DYNAMICS or not is_gymnasiums or not wrappers <= WITHOUT_EFFECT:
        return f"there are compiled dynamics of {', '.join(DYNAMICS)} only"
    return None


class CompiledLoop:
    """Trains with the constants and functions of a lesson, one seed after the other.

    Args:
        lesson: run.py, loaded by `load_lesson` with the options of a configuration.
        env_id: name of the environment, in which `why_not_compilable` finds nothing.

    Raises:
        WrongInput: the replay buffer would need more memory than is free.
        TypeError: `fit_batch` doesn't return a number.
    """

    def __init__(self, lesson, env_id):
        self.lesson = lesson
        self.env = make_env(env_id)
        self.dynamics = DYNAMICS[self.env.spec.id](self.env)
        self.time_limit = self.env.spec.max_episode_steps
        self.observation_size = self.env.observation_space.shape[0]
        # One array for all, in which XLA can change a row without copying the others.
        self.buffer_shape = lesson.REPLAY_BUFFER_SIZE, 2 * self.observation_size + 3
        size = 4 * np.prod(self.buffer_shape, dtype=float)  # bytes: all numbers are float32
        check_memory(2 * size, f"REPLAY_BUFFER_SIZE {lesson.REPLAY_BUFFER_SIZE}")
        keras.utils.set_random_seed(0)
        self.model = lesson.create_model(self.env)
        self.target_model = keras.models.clone_model(self.model)
        try:
            self.trace()
        except Exception:
            self.check_update()  # says more plainly what is wrong
            raise
        self.initial_values = [variable.numpy() for variable in self.compiled_steps.variables]
        self.check_update()

    def trace(self):
        """Makes graphs of `take_steps` and `play_steps`, which XLA compiles at the first call."""
        count = tf.TensorSpec((), tf.int32)
        state_size = self.dynamics.draw_starts(np.random.default_rng(), 1).shape[1]
        state = tf.TensorSpec((state_size,), tf.float64)
        starts = tf.TensorSpec((STEPS_PER_CALL, state_size), tf.float64)
        actions = tf.TensorSpec((STEPS_PER_CALL,), tf.int64)
        rows = tf.TensorSpec((STEPS_PER_CALL, self.lesson.BATCH_SIZE), tf.int32)
        buffer = tf.TensorSpec(self.buffer_shape, tf.float32)
        total = tf.TensorSpec((), tf.float64)
        compiled = tf.function(self.take_steps, jit_compile=True, autograph=False)
        self.compiled_steps = compiled.get_concrete_function(
            count, count, state, count, buffer, actions, starts, rows
        )
        compiled = tf.function(self.play_steps, jit_compile=True, autograph=False)
        self.compiled_play = compiled.get_concrete_function(
            count, state, count, (total, total, count), actions, starts
        )

    def compile_now(self):
        """Calls what is compiled, which XLA does at the first call, and changes nothing."""
        arguments, _ = self.compiled_steps.structured_input_signature
        self.compiled_steps(*tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), arguments))

    def check_update(self):
        """Makes an update outside of the loop, where TensorFlow says more of what is wrong.

        XLA doesn't notice an index that is too large, for example.
        """
        replay_buffer = ReplayBuffer(1000, self.env.observation_space, seed=0)
        observation, _ = self.env.reset(seed=0)
        for step in range(1000):
            action = step % self.env.action_space.n
            next_observation, reward, terminated, truncated, _ = self.env.step(action)
            done = terminated or truncated
            replay_buffer.add(observation, action, reward, next_observation, done)
            observation = self.env.reset()[0] if done else next_observation
        batch = replay_buffer.sample(self.lesson.BATCH_SIZE)
        loss = self.lesson.fit_batch(self.env, self.model, self.target_model, batch)
        if np.ndim(loss) or not isinstance(loss, (float, np.floating)):
            raise TypeError(f"fit_batch has to return the loss, a number, not {loss!r}")

    def train(self, seed, show=lambda step: None):
        """Trains a new network: `train` of run.py.

        Args:
            seed: seed of the initial weights, which are those of run.py, and of all that is random.
            show: function that is called with the number of steps taken, after each call of the
                loop.

        Returns:
            List of `Evaluation`s.

        Raises:
            Diverged: the loss is no longer finite.
        """
        lesson = self.lesson
        seeds = lesson.spawn_seeds(seed)
        self.initialize(seeds["weights"])
        self.compile_now()  # so that compiling isn't counted as training
        env_random = np.random.default_rng(seeds["environment"])
        action_random = np.random.default_rng(seeds["actions"])
        buffer_random = np.random.default_rng(seeds["replay_buffer"])
        buffer = tf.zeros(self.buffer_shape)
        state, age = self.dynamics.draw_starts(env_random, 1)[0], 0
        step, seconds, evaluations = 0, 0.0, []
        evaluated = range(lesson.EVAL_EVERY, lesson.MAX_STEPS, lesson.EVAL_EVERY)

        for end in sorted({lesson.Q_VALIDATION_SIZE, *evaluated, lesson.MAX_STEPS}):
            while step < end:
                start = time.perf_counter()
                n = min(end - step, STEPS_PER_CALL)
                actions = self.draw_actions(action_random, lesson.TRAIN_EPSILON)
                starts = self.dynamics.draw_starts(env_random, STEPS_PER_CALL)
                rows = self.draw_rows(buffer_random, step + 1)
                n, loss, state, age, buffer = self.compiled_steps(
                    step + 1, n, state, age, buffer, actions, starts, rows
                )
                step += int(n)
                check_loss(float(loss), step)
                seconds += time.perf_counter() - start
                show(step)
            if step == lesson.Q_VALIDATION_SIZE:
                filled = min(step, lesson.REPLAY_BUFFER_SIZE)
                drawn = buffer_random.integers(filled, size=step)
                validation_observations, *_ = self.columns(tf.gather(buffer, drawn))
            if step in evaluated or step == lesson.MAX_STEPS:
                episode_return_avg, episodes = self.evaluate(seed)
                q_values = lesson.predict(self.env, self.model, validation_observations)
                avg_max_q_value = float(np.mean(np.max(q_values, axis=1)))
                evaluations.append(
                    Evaluation(step, episode_return_avg, avg_max_q_value, seconds, episodes)
                )
        return evaluations

    def evaluate(self, seed):
        """Plays EVAL_STEPS steps without learning: `evaluate` of run.py.

        Args:
            seed: with the same one, episodes start in the same states.

        Returns:
            (episode_return_avg, episodes): mean return of the episodes completed, nan if there is
            none, and how many there are.
        """
        env_random = np.random.default_rng(seed)
        action_random = np.random.default_rng(self.lesson.spawn_seeds(seed)["evaluation_actions"])
        state, age = self.dynamics.draw_starts(env_random, 1)[0], 0
        returns = 0.0, 0.0, 0
        for first in range(0, self.lesson.EVAL_STEPS, STEPS_PER_CALL):
            n = min(self.lesson.EVAL_STEPS - first, STEPS_PER_CALL)
            actions = self.draw_actions(action_random, self.lesson.EVAL_EPSILON)
            starts = self.dynamics.draw_starts(env_random, STEPS_PER_CALL)
            state, age, returns = self.compiled_play(n, state, age, returns, actions, starts)
        _, total, episodes = returns
        episodes = int(episodes)
        return (float(total) / episodes if episodes else float("nan")), episodes

    def take_steps(self, first_step, n, state, age, buffer, actions, starts, rows):
        """Trains for some steps, between which nothing is evaluated.

        Args:
            first_step: number of the first one, an integer.
            n: how many, at most `STEPS_PER_CALL`.
            state: state of the environment, a float64 vector.
            age: steps that the episode has taken.
            buffer: replay buffer.
            actions: for each step, a random action, or -1 for a greedy one.
            starts: for each, the state in which the next episode starts if one ends there.
            rows: for each, those of the replay buffer that are its batch.

        Returns:
            (n, loss, state, age, buffer): how many steps were taken, fewer if the loss is no longer
            finite; the last loss; the others as they are then.
        """
        lesson = self.lesson
        every = lesson.TARGET_UPDATE_EVERY

        def is_before(end):
            return lambda i, loss, *_: (i < end) & tf.math.is_finite(loss)

        def take_step(i, loss, state, age, buffer):
            observation, action, reward, next_state, done = self.act(state, age, actions[i])
            numbers = [tf.cast(value, tf.float32) for value in (action, reward, done)]
            transition = tf.concat([observation, self.dynamics.observe(next_state), numbers], 0)
            row = (first_step + i - 1) % lesson.REPLAY_BUFFER_SIZE
            buffer = tf.tensor_scatter_nd_update(buffer, [[row]], [transition])
            state = tf.where(done, starts[i], next_state)
            return i + 1, loss, state, tf.where(done, 0, age + 1), buffer

        def learn(i, *others):
            next_i, _, state, age, buffer = take_step(i, *others)
            batch = self.look_ahead(buffer, rows[i], first_step + i)
            loss = lesson.fit_batch(self.env, self.model, self.target_model, batch)
            return next_i, tf.cast(loss, tf.float32), state, age, buffer

        def copy_weights():
            for target, variable in zip(self.target_model.weights, self.model.weights, strict=True):
                target.assign(variable)
            return 0

        def learn_until_copy(i, *others):
            since_copy = (first_step + i) % every
            tf.cond(since_copy == 0, copy_weights, lambda: 0)
            end = tf.minimum(n, i + every - since_copy)
            return tf.while_loop(is_before(end), learn, (i, *others))

        # A condition inside of the innermost loop would make XLA copy all weights at every step.
        learning_starts = tf.minimum(n, lesson.TRAIN_START - first_step)
        values = 0, 0.0, state, age, buffer
        values = tf.while_loop(is_before(learning_starts), take_step, values)
        return tf.while_loop(is_before(n), learn_until_copy, values)

    def play_steps(self, n, state, age, returns, actions, starts):
        """Plays some steps of an evaluation.

        Args:
            n: how many, at most `STEPS_PER_CALL`.
            state: state of the environment, a float64 vector.
            age: steps that the episode has taken.
            returns: (episode_return, total, episodes): the return of the episode so far, the sum of
                the returns of those completed, and how many these are.
            actions: for each step, a random action, or -1 for a greedy one.
            starts: for each, the state in which the next episode starts if one ends there.

        Returns:
            (state, age, returns), as they are then.
        """

        def play_step(i, state, age, returns):
            _, _, reward, next_state, done = self.act(state, age, actions[i])
            episode_return, total, episodes = returns
            episode_return += tf.cast(reward, tf.float64)
            returns = (
                tf.where(done, tf.zeros_like(episode_return), episode_return),
                tf.where(done, total + episode_return, total),
                tf.where(done, episodes + 1, episodes),
            )
            state = tf.where(done, starts[i], next_state)
            return i + 1, state, tf.where(done, 0, age + 1), returns

        return tf.while_loop(lambda i, *_: i < n, play_step, (0, state, age, returns))[1:]

    def act(self, state, age, random_action):
        """Acts in a state: at random unless `random_action` is -1, which means greedily.

        Returns:
            (observation, action, reward, next_state, done): tensors.
        """
        observation = self.dynamics.observe(state)
        q_values = self.lesson.predict(self.env, self.model, observation[tf.newaxis])[0]
        action = tf.where(random_action < 0, tf.argmax(q_values), random_action)
        next_state, reward, terminated = self.dynamics.step(state, action)
        done = terminated | (age + 1 == self.time_limit)
        return observation, action, reward, next_state, done

    def draw_actions(self, random, epsilon):
        """For each step of a call, a random action with probability `epsilon`, otherwise -1."""
        actions = random.integers(self.env.action_space.n, size=STEPS_PER_CALL)
        return np.where(random.random(STEPS_PER_CALL) < epsilon, actions, -1)

    def draw_rows(self, random, first_step):
        """For each step of a call, the rows of its batch, counted from the oldest transition."""
        stored = np.arange(first_step, first_step + STEPS_PER_CALL)
        followed = np.minimum(stored, self.lesson.REPLAY_BUFFER_SIZE) - self.lesson.N_STEPS + 1
        fractions = random.random((STEPS_PER_CALL, self.lesson.BATCH_SIZE), np.float32)
        return (fractions * followed[:, np.newaxis]).astype(np.int32)

    def look_ahead(self, buffer, rows, stored):
        """A batch: `sample` and `look_ahead` of ReplayBuffer.

        Args:
            buffer: replay buffer.
            rows: rows of the batch, as `draw_rows` has drawn them.
            stored: how many transitions have ever been stored.

        Returns:
            Observations, actions, rewards, next_observations, dones.
        """
        n_steps, gamma = self.lesson.N_STEPS, self.lesson.DISCOUNT_FACTOR_GAMMA
        filled = tf.minimum(stored, self.lesson.REPLAY_BUFFER_SIZE)
        if n_steps > 1:
            rows = (stored + rows) % filled
        observations, actions, rewards, *ends = self.columns(tf.gather(buffer, rows))
        next_observations, dones = ends
        for step in range(1, n_steps):
            goes_on = ~dones
            rows = tf.where(goes_on, rows + 1, rows) % filled
            _, _, later_rewards, next_observations, dones = self.columns(tf.gather(buffer, rows))
            rewards += tf.where(goes_on, gamma**step * later_rewards, 0.0)
        return observations, actions, rewards, next_observations, dones

    def columns(self, transitions):
        """Rows of the buffer: observations, actions, rewards, next_observations, dones."""
        sizes = [self.observation_size, self.observation_size, 1, 1, 1]
        observations, next_observations, *others = tf.split(transitions, sizes, axis=1)
        actions, rewards, dones = [tf.squeeze(column, 1) for column in others]
        return observations, tf.cast(actions, tf.int64), rewards, next_observations, dones > 0

    def initialize(self, seed):
        """Gives all variables their values at the start of a training."""
        for variable, value in zip(self.compiled_steps.variables, self.initial_values, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(seed)
        fresh = self.lesson.create_model(self.env)
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)  # weights, and what layers such as Dropout draw with
        self.target_model.set_weights(fresh.get_weights())
