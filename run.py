"""Deep Q-learning (DQN) for Mountain Car, after "A Deep Dive into Reinforcement Learning" by
Adam Stelmaszczyk (2018). `python run.py` trains; `python run.py --help` lists the options."""

from support.options import read_options, start

# Each of these is an option, too: `python run.py --train-epsilon 0.05` overrides the value here.
TRAIN_EPSILON = 0.01  # probability of a random action in training
LEARNING_RATE = 0.001  # step size of the Adam optimizer
LEARNING_RATE_DECAY = 1.0  # LEARNING_RATE falls linearly to this fraction; 1: it stays
BATCH_SIZE = 64  # transitions per update
TARGET_UPDATE_EVERY = 1000  # steps between copies of the weights to the target network
DISCOUNT_FACTOR_GAMMA = 0.99  # weight of the next state's value
N_STEPS = 1  # rewards that a target adds up before it asks the target network
TRAIN_START = 2000  # first step with an update
REPLAY_BUFFER_SIZE = 50000  # transitions kept
MAX_STEPS = 200000  # steps of one training run
LOG_EVERY = 2000  # at least this many steps between log lines
SNAPSHOT_EVERY = 50000  # steps between .h5 snapshots
CHECKPOINT_EVERY = 10000  # steps between checkpoints, from which --resume continues
EVAL_EVERY = 20000  # steps between evaluations
EVAL_STEPS = 10000  # steps of one evaluation
EVAL_EPSILON = 0  # probability of a random action in evaluation: fully greedy
Q_VALIDATION_SIZE = 10000  # observations over which avg_max_q_value is averaged
HIDDEN_UNITS = 32  # neurons in each hidden layer
LAYER_NORMALIZATION = False  # whether the sums of a hidden layer are normalized

# Options are read before TensorFlow is imported, which takes seconds, to report mistakes at once.
options = read_options(globals())

from support.fast_tensorflow import compiled  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import os

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from loggers import TrainingLog, warn_of_long_episodes
from replay_buffer import ReplayBuffer
from support.environments import Replayable, make_env
from support.errors import check_loss
from support.runs import Run, over_episodes
from support.snapshots import load_weights, write_snapshot


def one_hot_encode(n, action):
    """Vector of `n` zeros with a one at `action`; for a batch of actions, a row for each."""
    return tf.one_hot(action, n)


def create_model(env):
    """Builds the Q-network (the article's).

    A mask of ones gives the Q-values of all actions in one pass, a one-hot mask only that of one
    action, so that in training the others add nothing to the error.

    Args:
        env: environment with vector observations and discrete actions.

    Returns:
        Compiled Keras model from observations (batch, observation size) and action masks
        (batch, n actions) to masked Q-values (batch, n actions), all float32.
    """
    n_actions = int(env.action_space.n)
    observations = keras.Input(env.observation_space.shape, name="observations_input")
    action_mask = keras.Input((n_actions,), name="action_mask")
    hidden = hidden_layer(observations)
    hidden = hidden_layer(hidden)
    q_values = keras.layers.Dense(n_actions)(hidden)
    filtered_q_values = keras.layers.Multiply()([q_values, action_mask])
    model = keras.Model([observations, action_mask], filtered_q_values)
    optimizer = create_optimizer()
    model.compile(optimizer, loss="mean_squared_error")
    optimizer.build(model.trainable_variables)  # now, so that a checkpoint can restore its state
    return model


def hidden_layer(inputs):
    """A new layer of HIDDEN_UNITS neurons with relu, on top of `inputs`; returns its output.

    LAYER_NORMALIZATION divides the sums of the neurons by the root of their mean square, and
    multiplies each by a weight, before relu (Zhang and Sennrich 2019).
    """
    if not LAYER_NORMALIZATION:
        return keras.layers.Dense(HIDDEN_UNITS, activation="relu")(inputs)
    sums = keras.layers.Dense(HIDDEN_UNITS)(inputs)
    return keras.layers.ReLU()(keras.layers.RMSNormalization()(sums))


def create_optimizer():
    """The Keras optimizer: Adam, with gradients clipped to norm 1 over all weights together.

    (Mnih et al. 2015 clip errors instead.)
    """
    learning_rate = keras.optimizers.schedules.PolynomialDecay(
        LEARNING_RATE,
        decay_steps=MAX_STEPS - TRAIN_START,
        end_learning_rate=LEARNING_RATE * LEARNING_RATE_DECAY,
    )
    return keras.optimizers.Adam(learning_rate, global_clipnorm=1.0)


@compiled
def predict(env, model, observations):
    """Q-values of all actions, float32 of shape (batch, n actions), for a batch of observations.

    `compiled` makes it take and return NumPy arrays, and run fast. To look inside such a function,
    with print or a debugger, run with --eager; see support/fast_tensorflow.py.
    """
    observations = tf.cast(observations, tf.float32)
    mask = tf.ones((tf.shape(observations)[0], env.action_space.n))
    return model([observations, mask])


@compiled
def fit_batch(env, model, target_model, batch):
    """One update of the network: a step of gradient descent on one batch.

    The Q-value of the action taken moves towards reward + gamma * max Q of the next observation,
    which `target_model`, a copy of older weights, estimates (Mnih et al. 2015, algorithm 1); after
    the last step of an episode the next value counts as 0. Targets are masked like Q-values, so
    that the other actions' errors are 0 - 0.

    It does what `model.fit` would do with targets of `model.predict`, without their overhead.

    Args:
        env: environment that gives the number of actions.
        model: Q-network of `create_model`; its weights and its optimizer's state change.
        target_model: network of the same shape.
        batch: observations, actions, rewards, next_observations, dones; arrays of batch rows. With
            N_STEPS of more than 1, a reward is a sum, and the next observation as many steps away.

    Returns:
        Mean squared error over batch and actions before the update, a float32.
    """
    observations, actions, rewards, next_observations, dones = batch
    # The Bellman equation, Q(s, a) = r + gamma * max Q(s', a') over all a', gives the targets.
    max_next_q_values = tf.reduce_max(predict(env, target_model, next_observations), axis=1)
    max_next_q_values = tf.where(dones, 0.0, max_next_q_values)
    targets = tf.cast(rewards, tf.float32) + DISCOUNT_FACTOR_GAMMA**N_STEPS * max_next_q_values
    masks = one_hot_encode(env.action_space.n, actions)
    with tf.GradientTape() as tape:
        q_values = model([tf.cast(observations, tf.float32), masks], training=True)  # for Dropout
        loss = model.compute_loss(y=masks * targets[:, tf.newaxis], y_pred=q_values)
    gradients = tape.gradient(loss, model.trainable_variables)
    model.optimizer.apply(gradients, model.trainable_variables)
    return loss


def greedy_action(env, model, observation):
    """The action (int) with the highest Q-value for one observation."""
    q_values = predict(env, model, observation[np.newaxis])[0]
    return int(np.argmax(q_values))


def epsilon_greedy_action(env, model, observation, epsilon):
    """A random action (int) with probability `epsilon`, otherwise the greedy one.

    Both draws come from the random generator of `env.action_space`.
    """
    if env.action_space.np_random.random() < epsilon:
        return int(env.action_space.sample())
    return greedy_action(env, model, observation)


def save_model(model, step, run):
    """Saves a network, its optimizer included, as LOGDIR/NAME-STEP.h5.

    `step` may be "best". `run` gives the directory, the name and the settings, which the file
    records, too.
    """
    filename = os.path.join(run.logdir, f"{run.name}-{step}.h5")
    write_snapshot(filename, model, run.settings)
    tqdm.write(f"Saved {filename}")


def spawn_seeds(seed):
    """Seeds of independent streams of random numbers, from one seed: a dict of names to ints.

    The seed itself is left for the environment of evaluations.
    """
    names = ("weights", "environment", "actions", "replay_buffer", "evaluation_actions")
    children = np.random.SeedSequence(seed).spawn(len(names))
    seeds = [int(child.generate_state(1)[0]) for child in children]
    return dict(zip(names, seeds, strict=True))


def evaluate(env, model, seed=None):
    """Plays EVAL_STEPS steps without learning; with the same seed, the same way.

    Args:
        env: an environment of its own, so that a training in another isn't disturbed.
        model: Q-network.
        seed: seed of the environment and of the random actions.

    Returns:
        (episode_return_avg, episodes): mean return of the episodes completed, a float, nan if there
        is none; and how many there are, an int. Outside of a training, Ctrl-C or closing the window
        ends it early.
    """
    tqdm.write("Evaluation")
    returns = []
    episode_return = 0.0
    step = last_end = 0
    env.action_space.seed(spawn_seeds(seed)["evaluation_actions"])
    observation, _ = env.reset(seed=seed)
    with contextlib.suppress(KeyboardInterrupt):
        for step in tqdm(range(EVAL_STEPS), disable=None, position=0, dynamic_ncols=True):
            action = epsilon_greedy_action(env, model, observation, EVAL_EPSILON)
            observation, reward, terminated, truncated, _ = env.step(action)
            episode_return += reward
            if terminated or truncated:
                returns.append(episode_return)
                episode_return = 0.0
                last_end = step
                observation, _ = env.reset()
        warn_of_long_episodes(len(returns), step - last_end, EVAL_STEPS)
    return (float(np.mean(returns)) if returns else float("nan")), len(returns)


def evaluate_and_save_best(eval_env, model, step, run):
    """Evaluates a network in training, logs the results, and saves the network if it is the best.

    avg_max_q_value is the mean over `run.validation_observations` of the highest Q-value.
    """
    with run.paused():
        episode_return_avg, episodes = evaluate(eval_env, model, run.seed)
        q_values = predict(eval_env, model, run.validation_observations)
    avg_max_q_value = np.mean(np.max(q_values, axis=1))
    is_best = run.add_evaluation(step, episode_return_avg, episodes, avg_max_q_value)
    if is_best:
        save_model(model, "best", run)


def train(env, eval_env, model, run):
    """Trains the network by deep Q-learning (Mnih et al. 2015, algorithm 1).

    Args:
        env: environment to learn in, of `make_env`.
        eval_env: another one of the same kind, to evaluate in.
        model: Q-network of `create_model`, which is trained.
        run: `Run`, which says where to start and when to stop, and keeps what --resume needs.

    Returns:
        Mean return of the last evaluation, a float; None without one.

    Raises:
        Diverged: the loss is no longer finite.
        OSError: a file can't be written.
    """
    env = Replayable(env)  # for --resume, which plays the steps of an episode again
    target_model = keras.models.clone_model(model)
    target_model.set_weights(model.get_weights())
    buffer_seed = spawn_seeds(run.seed)["replay_buffer"]
    replay_buffer = ReplayBuffer(
        REPLAY_BUFFER_SIZE, env.observation_space, buffer_seed, N_STEPS, DISCOUNT_FACTOR_GAMMA
    )
    log = TrainingLog(LOG_EVERY)
    loss = None
    observation, _ = env.reset()

    # Everything that changes belongs in a checkpoint, from which --resume restores it.
    run.start(
        env=env,
        model=model,
        optimizer=model.optimizer,
        target_model=target_model,
        replay_buffer=replay_buffer,
        log=log,
    )
    observation = env.observation  # in a resumed run, the one at which it stopped

    for step in run.steps():  # until MAX_STEPS or Ctrl-C; writes checkpoints, too
        action = epsilon_greedy_action(env, model, observation, TRAIN_EPSILON)
        next_observation, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated  # at the flag, or out of time
        replay_buffer.add(observation, action, reward, next_observation, done)
        observation = next_observation

        if step >= TRAIN_START:
            if step % TARGET_UPDATE_EVERY == 0:
                target_model.set_weights(model.get_weights())
            batch = replay_buffer.sample(BATCH_SIZE)
            loss = fit_batch(env, model, target_model, batch)
            check_loss(loss, step)  # ends a run that has diverged

        log.step(step, loss, info)  # info has the return, at the end of an episode
        if done:
            observation, _ = env.reset()

        if step == Q_VALIDATION_SIZE:  # which is no later than the first evaluation
            run.validation_observations = np.array(replay_buffer.sample(Q_VALIDATION_SIZE)[0])
        if step % EVAL_EVERY == 0 or step == MAX_STEPS:
            evaluate_and_save_best(eval_env, model, step, run)
        if step % SNAPSHOT_EVERY == 0:
            save_model(model, step, run)

    if run.step % SNAPSHOT_EVERY != 0:  # the last network, unless it has just been saved
        save_model(model, run.step, run)
    return run.evaluations[-1].episode_return_avg if run.evaluations else None


def load_or_create_model(env, model_filename, settings=None):
    """Builds the Q-network, gives it the weights of a snapshot if there is one, prints its summary.

    Args:
        env: environment that the network is for.
        model_filename: .h5 snapshot, of which the weights are read; or None.
        settings: dict of the constants, to say which ones differ where the weights don't fit.

    Returns:
        Compiled Keras model.

    Raises:
        WrongInput: the snapshot can't be read or is of another network.
    """
    model = create_model(env)
    if model_filename:
        load_weights(model, model_filename, settings)
    model.summary()
    return model


def set_seed(env, seed):
    """Seeds the initialization of weights, the environment (by a reset) and its random actions."""
    seeds = spawn_seeds(seed)
    keras.utils.set_random_seed(seeds["weights"])
    env.action_space.seed(seeds["actions"])
    env.reset(seed=seeds["environment"])


def main(options):
    """Trains a network, or watches a trained one, as the command line says.

    Args:
        options: what `read_options` returned.

    Returns:
        Mean return of the last evaluation, a float; None without one.
    """
    print(f"Seed {options.seed}")
    env = make_env(options.env, options.view, options.images, options.gif, title=options.model)
    set_seed(env, options.seed)
    model = load_or_create_model(env, options.model, options.settings)
    if options.play:  # --view, --eval, --images or --gif
        with env:
            episode_return_avg, episodes = evaluate(env, model, options.seed)
        print(f"episode_return_avg {episode_return_avg:.3f} {over_episodes(episodes)}")
        return episode_return_avg
    with Run(options, MAX_STEPS, CHECKPOINT_EVERY) as run:
        return train(env, make_env(options.env), model, run)


if __name__ == "__main__":
    start(main, options)
