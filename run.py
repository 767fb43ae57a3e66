"""Deep Q-learning (DQN) of Mountain Car, after "A Deep Dive into Reinforcement Learning" by
Adam Stelmaszczyk (2018). `python run.py` trains; `python run.py --help` lists the options."""

from support.fast_tensorflow import compiled  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import os

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from loggers import TrainingLog
from replay_buffer import ReplayBuffer
from support.environments import make_env
from support.options import parse_args, self_test
from support.runs import Run
from support.snapshots import load_weights, write_snapshot

# Each is an option, too: python run.py --train-epsilon 0.05
TRAIN_EPSILON = 0.01  # probability of a random action in training
LEARNING_RATE = 0.001  # step size of the Adam optimizer
BATCH_SIZE = 64  # transitions per update
TARGET_UPDATE_EVERY = 1000  # steps between copies of the weights to the target network
DISCOUNT_FACTOR_GAMMA = 0.99  # weight of the next state's value
TRAIN_START = 2000  # first step with an update
REPLAY_BUFFER_SIZE = 50000  # transitions kept
MAX_STEPS = 200000  # steps of one training run
LOG_EVERY = 2000  # at least this many steps between log lines
SNAPSHOT_EVERY = 50000  # steps between .h5 snapshots
CHECKPOINT_EVERY = 10000  # steps between checkpoints, from which --resume goes on
EVAL_EVERY = 20000  # steps between evaluations
EVAL_STEPS = 10000  # steps of one evaluation
EVAL_EPSILON = 0  # probability of a random action in evaluation: fully greedy
Q_VALIDATION_SIZE = 10000  # observations whose highest Q-values avg_max_q_value averages


def one_hot_encode(n, action):
    """Vector of `n` zeros with a one at `action`; for a batch of actions, a row for each."""
    return tf.one_hot(action, n)


def create_model(env, learning_rate=LEARNING_RATE):
    """Builds the Q-network (the article's).

    A mask of ones gives the Q-values of all actions in one pass, a one-hot mask only that of one
    action, so that in training the others add nothing to the error.

    Args:
        env: environment with vector observations and discrete actions.
        learning_rate: step size of Adam.

    Returns:
        Compiled Keras model from observations (batch, observation size) and action masks
        (batch, n actions) to masked Q-values (batch, n actions), all float32.
    """
    n_actions = int(env.action_space.n)
    observations = keras.Input(env.observation_space.shape, name="observations_input")
    action_mask = keras.Input((n_actions,), name="action_mask")
    hidden = keras.layers.Dense(32, activation="relu")(observations)
    hidden = keras.layers.Dense(32, activation="relu")(hidden)
    q_values = keras.layers.Dense(n_actions)(hidden)
    filtered_q_values = keras.layers.Multiply()([q_values, action_mask])
    model = keras.Model([observations, action_mask], filtered_q_values)
    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=1.0)
    model.compile(optimizer, loss="mean_squared_error")
    optimizer.build(model.trainable_variables)
    return model


@compiled
def predict(env, model, observations):
    """Q-values of all actions, float32 of shape (batch, n actions), for a batch of observations.

    `compiled` makes it take and return NumPy arrays, and run fast; see support/fast_tensorflow.py.
    """
    observations = tf.cast(observations, tf.float32)
    mask = tf.ones((tf.shape(observations)[0], env.action_space.n))
    return model([observations, mask])


@compiled
def fit_batch(env, model, target_model, batch, gamma=DISCOUNT_FACTOR_GAMMA):
    """One update of the network: a step of gradient descent on one batch.

    The Q-value of the action taken moves towards reward + gamma * max Q of the next observation,
    which `target_model`, a copy of older weights, estimates (Mnih et al. 2015, algorithm 1); an
    episode that is done has nothing more to come. Targets are masked like Q-values, so that the
    other actions' errors are 0 - 0. It does what `model.fit` would do with targets of
    `model.predict`; it is spelled out because those take 40 ms each to get going.

    Args:
        env: environment that gives the number of actions.
        model: Q-network of `create_model`; its weights and its optimizer's state change.
        target_model: network of the same shape.
        batch: observations, actions, rewards, next_observations, dones; arrays of batch rows.
        gamma: discount factor.

    Returns:
        Mean squared error over batch and actions before the update, a float32.
    """
    observations, actions, rewards, next_observations, dones = batch
    # The Bellman equation, Q(s, a) = r + gamma * max Q(s', a') over all a', gives the targets.
    max_next_q_values = tf.reduce_max(predict(env, target_model, next_observations), axis=1)
    max_next_q_values = tf.where(dones, 0.0, max_next_q_values)
    targets = tf.cast(rewards, tf.float32) + gamma * max_next_q_values
    masks = one_hot_encode(env.action_space.n, actions)
    with tf.GradientTape() as tape:
        q_values = model([tf.cast(observations, tf.float32), masks], training=True)
        loss = model.compute_loss(y=masks * targets[:, tf.newaxis], y_pred=q_values)
    gradients = tape.gradient(loss, model.trainable_variables)
    model.optimizer.apply(gradients, model.trainable_variables)
    return loss


@compiled
def greedy_action(env, model, observation):
    """The action (int) with the highest Q-value for one observation."""
    return tf.argmax(predict(env, model, observation[tf.newaxis])[0])


def epsilon_greedy_action(env, model, observation, epsilon):
    """A random action (int) with probability `epsilon`, otherwise the greedy one.

    Both draws come from the random generator of `env.action_space`.
    """
    if env.action_space.np_random.random() < epsilon:
        return env.action_space.sample()
    return greedy_action(env, model, observation)


def save_model(model, step, logdir, name, episode_return_avg=None):
    """Saves weights, optimizer and architecture as LOGDIR/NAME-STEP.h5; returns the file's name."""
    filename = os.path.join(logdir, f"{name}-{step}.h5")
    write_snapshot(filename, model)
    result = "" if episode_return_avg is None else f" episode_return_avg {episode_return_avg:.3f}"
    tqdm.write(f"Saved {filename}{result}")
    return filename


def evaluate(env, model, steps=EVAL_STEPS, epsilon=EVAL_EPSILON, seed=None):
    """Plays without learning; with the same seed, the same way.

    Args:
        env: environment of its own, so that a training run's stays as it is.
        model: Q-network.
        steps: length of the evaluation; fewer after Ctrl-C, or when the window is closed.
        epsilon: probability of a random action.
        seed: seed of the environment and of the random actions.

    Returns:
        Mean return of the episodes completed, a float; nan if there is none.
    """
    tqdm.write("Evaluation")
    returns, episode_return = [], 0.0
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C, or the window was closed
        for _ in tqdm(range(steps), disable=None, position=0, dynamic_ncols=True):
            action = epsilon_greedy_action(env, model, observation, epsilon)
            observation, reward, terminated, truncated, _ = env.step(action)
            episode_return += reward
            if terminated or truncated:
                returns.append(episode_return)
                episode_return = 0.0
                observation, _ = env.reset()
    return float(np.mean(returns)) if returns else float("nan")


def train(env, eval_env, model, run, args):
    """Trains the network by deep Q-learning (Mnih et al. 2015, algorithm 1).

    Args:
        env: environment to learn in, of `make_env`.
        eval_env: another one of the same kind, to evaluate in.
        model: Q-network of `create_model`, which is trained.
        run: `Run` that says where to start and when to stop, and keeps what --resume needs.
        args: the hyperparameters at the top of this file, in lower case, and `seed`.

    Returns:
        Mean return of the last evaluation, a float; None without one.

    Raises:
        FloatingPointError: the loss is not finite any more.
        OSError: a file can't be written.
    """
    target_model = keras.models.clone_model(model)
    target_model.set_weights(model.get_weights())
    replay_buffer = ReplayBuffer(args.replay_buffer_size, env.observation_space, args.seed)
    log = TrainingLog(args.log_every)
    observation = run.begin(env, model, target_model, replay_buffer, log)  # reset, or resumed
    loss = None

    for step in run.steps():  # on from the last checkpoint, to MAX_STEPS or Ctrl-C
        action = epsilon_greedy_action(env, model, observation, args.train_epsilon)
        next_observation, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated  # at the flag, or out of time
        replay_buffer.add(observation, action, reward, next_observation, done)
        observation = next_observation

        if step >= args.train_start:
            if step % args.target_update_every == 0:
                target_model.set_weights(model.get_weights())
            batch = replay_buffer.sample(args.batch_size)
            loss = fit_batch(env, model, target_model, batch, gamma=args.discount_factor_gamma)
        log.step(step, loss, info)  # at the end of an episode, info has its return
        if done:
            observation, _ = env.reset()

        if step == args.q_validation_size:  # the same observations for all evaluations
            run.validation_observations, *_ = replay_buffer.sample(args.q_validation_size)
        if step % args.eval_every == 0:
            with log.evaluating():
                episode_return_avg = evaluate(
                    eval_env, model, args.eval_steps, args.eval_epsilon, args.seed
                )
                q_values = predict(env, model, run.validation_observations)
            avg_max_q_value = q_values.max(axis=1).mean()
            log.evaluation(step, episode_return_avg, avg_max_q_value)
            run.add_evaluation(step, episode_return_avg, avg_max_q_value)
            if run.best.step == step:
                save_model(model, "best", run.logdir, run.name, episode_return_avg)
        if step % args.snapshot_every == 0 or run.is_last_step:
            save_model(model, step, run.logdir, run.name)
        run.end_step(done)  # a checkpoint now and then
    return run.evaluations[-1].episode_return_avg if run.evaluations else None


def load_or_create_model(env, model_filename, learning_rate=LEARNING_RATE):
    """Builds the Q-network, gives it the weights of a snapshot if there is one, prints its summary.

    Args:
        env: environment that the network is for.
        model_filename: .h5 snapshot, of which nothing but the weights is read; or None.
        learning_rate: step size of Adam.

    Returns:
        Compiled Keras model.

    Raises:
        WrongInput: the snapshot can't be read or is of another network.
    """
    model = create_model(env, learning_rate)
    if model_filename:
        load_weights(model, model_filename)
    model.summary()
    return model


def set_seed(env, seed):
    """Seeds the weights to be made, the environment (by a reset) and its random actions."""
    keras.utils.set_random_seed(seed)
    env.action_space.seed(seed)
    env.reset(seed=seed)


def main(args):
    """Does what the command line asks for.

    Args:
        args: what `parse_args` returns.

    Returns:
        Mean return of the last evaluation, a float; None without one.
    """
    if args.test:
        return self_test(main, globals(), args.env)
    print(f"Seed {args.seed}")
    env = make_env(args)
    set_seed(env, args.seed)
    model = load_or_create_model(env, args.model, args.learning_rate)
    if args.play:  # --view, --eval, --images or --gif
        with env:
            average = evaluate(env, model, args.eval_steps, args.eval_epsilon, args.seed)
        completed = not np.isnan(average)
        print(f"episode_return_avg {average:.3f}" if completed else "No episode was completed.")
        return average
    with Run(args) as run:
        return train(env, make_env(args), model, run, args)


if __name__ == "__main__":
    main(parse_args(globals()))
