"""Deep Q-learning (DQN) of Mountain Car, after "A Deep Dive into Reinforcement Learning" by
Adam Stelmaszczyk (2018). `python run.py` trains; `python run.py --help` lists the options."""

import contextlib
import os
import secrets
import signal
import sys
import tempfile

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

from fast_tensorflow import compiled  # isort: skip (first: it keeps TensorFlow quiet)

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from checkpoints import (
    Checkpoint,
    CheckpointError,
    Episode,
    StopSignal,
    read_checkpoint,
    write_file,
)
from command_line import (
    OneLineParser,
    WrongInput,
    check_args,
    check_resume,
    check_resumed,
    make_env,
    number,
    one_line,
)
from loggers import TensorBoardLogger, TrainingLog
from replay_buffer import ReplayBuffer
from snapshots import SnapshotError, load_weights, snapshot
from view import FrameSaver, has_display, window_closed

DISCOUNT_FACTOR_GAMMA = 0.99  # weight of the next state's value
LEARNING_RATE = 0.001  # step size of the Adam optimizer
BATCH_SIZE = 64  # transitions per update
TARGET_UPDATE_EVERY = 1000  # steps between copies of the weights to the target network
TRAIN_START = 2000  # first step with an update
REPLAY_BUFFER_SIZE = 50000  # transitions kept
MAX_STEPS = 200000  # steps of one training run
LOG_EVERY = 2000  # at least this many steps between log lines
SNAPSHOT_EVERY = 50000  # steps between .h5 snapshots
CHECKPOINT_EVERY = 10000  # steps between checkpoints, from which --resume goes on
EVAL_EVERY = 20000  # steps between evaluations
EVAL_STEPS = 10000  # steps of one evaluation
EVAL_EPSILON = 0  # probability of a random action in evaluation: fully greedy
TRAIN_EPSILON = 0.01  # probability of a random action in training
Q_VALIDATION_SIZE = 10000  # observations over which avg_max_q_value is taken


def one_hot_encode(n, action):
    """Vector of `n` zeros with a one at `action`; for a batch of actions, a row for each."""
    return tf.one_hot(action, n)


def create_model(env, learning_rate=LEARNING_RATE):
    """Builds the Q-network (the article's).

    A mask of ones gives the Q-values of all actions in one pass, a one-hot mask only that of one
    action, so that training changes nothing about the others.

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

    `compiled` makes it take and return NumPy arrays, and run fast; see fast_tensorflow.py.
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


def save_model(model, step, logdir, name):
    """Saves weights, optimizer and architecture as LOGDIR/NAME-STEP.h5; returns the file's name."""
    filename = os.path.join(logdir, f"{name}-{step}.h5")
    write_file(filename, snapshot(model))
    tqdm.write(f"Saved {filename}")
    return filename


def evaluate(env, model, steps=EVAL_STEPS, epsilon=EVAL_EPSILON, seed=None, frame_saver=None):
    """Plays without learning; with the same seed, the same way.

    Args:
        env: environment of its own, so that a training run's stays as it is.
        model: Q-network.
        steps: length of the evaluation; fewer if the environment's window is closed.
        epsilon: probability of a random action.
        seed: seed of the environment and of the random actions.
        frame_saver: `FrameSaver` that is given every step, or None.

    Returns:
        Mean return of the episodes completed, a float; nan if there is none.
    """
    tqdm.write("Evaluation")
    returns, episode_return, episode_step = [], 0.0, 0
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    for _ in tqdm(range(steps), disable=None, position=0, dynamic_ncols=True):
        action = epsilon_greedy_action(env, model, observation, epsilon)
        observation, reward, terminated, truncated, _ = env.step(action)
        episode_return += reward
        episode_step += 1
        if frame_saver:
            frame_saver.save(len(returns) + 1, episode_step)
        if window_closed():
            break
        if terminated or truncated:
            returns.append(episode_return)
            episode_return, episode_step = 0.0, 0
            observation, _ = env.reset()
    return float(np.mean(returns)) if returns else float("nan")


def train(
    env,
    eval_env,
    model,
    target_model,
    replay_buffer,
    log,
    checkpoint,
    stop,
    seed,
    discount_factor_gamma=DISCOUNT_FACTOR_GAMMA,
    batch_size=BATCH_SIZE,
    target_update_every=TARGET_UPDATE_EVERY,
    train_start=TRAIN_START,
    max_steps=MAX_STEPS,
    snapshot_every=SNAPSHOT_EVERY,
    eval_every=EVAL_EVERY,
    eval_steps=EVAL_STEPS,
    eval_epsilon=EVAL_EPSILON,
    train_epsilon=TRAIN_EPSILON,
    q_validation_size=Q_VALIDATION_SIZE,
):
    """Trains the network by deep Q-learning (Mnih et al. 2015, algorithm 1).

    Args:
        env: environment to learn in.
        eval_env: another one of the same kind, to evaluate in.
        model: Q-network of `create_model`, which is trained.
        target_model: at first a copy of it, which follows it every `target_update_every` steps.
        replay_buffer: `ReplayBuffer` to fill and to learn from.
        log: `TrainingLog`.
        checkpoint: `Checkpoint` that says where to start, and keeps what --resume needs.
        stop: `StopSignal` that may ask to stop before the end.
        seed: seed of every evaluation.
        The others are the hyperparameters at the top of this file.

    Returns:
        Mean return of the last evaluation, a float; None without one.

    Raises:
        FloatingPointError: the loss is not finite any more.
        OSError: a file can't be written.
    """
    steps_done, best_return, episode_return_avg, q_validation_observations, observation = (
        checkpoint.start()
    )
    logdir, name, loss = checkpoint.logdir, checkpoint.settings["name"], None

    for step in range(steps_done + 1, max_steps + 1):
        action = epsilon_greedy_action(env, model, observation, train_epsilon)
        next_observation, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        replay_buffer.add(observation, action, reward, next_observation, done)
        observation = next_observation
        log.step(reward)

        if step >= train_start:
            if step % target_update_every == 0:
                target_model.set_weights(model.get_weights())
            batch = replay_buffer.sample(batch_size)
            loss = fit_batch(env, model, target_model, batch, gamma=discount_factor_gamma)
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {step}; {checkpoint.where()}")
        if done:
            log.end_episode(step, loss)
            observation, _ = env.reset()

        if step == q_validation_size:
            q_validation_observations, *_ = replay_buffer.sample(q_validation_size)
        if step % eval_every == 0:
            with log.evaluating():
                episode_return_avg = evaluate(eval_env, model, eval_steps, eval_epsilon, seed)
                q_values = predict(env, model, q_validation_observations)
            log.log_evaluation(step, episode_return_avg, q_values.max(axis=1).mean())
            if episode_return_avg > best_return:
                best_return = episode_return_avg
                save_model(model, "best", logdir, name)
        last = step == max_steps or stop.requested
        if step % snapshot_every == 0 or last:
            save_model(model, step, logdir, name)
        if last or (done and checkpoint.is_due(step)):
            checkpoint.save(step, best_return, episode_return_avg, q_validation_observations)
        if last:
            break
    return episode_return_avg


def load_or_create_model(env, model_filename, learning_rate=LEARNING_RATE):
    """Builds the Q-network, gives it the weights of a snapshot if there is one, prints its summary.

    Args:
        env: environment that the network is for.
        model_filename: .h5 snapshot, of which nothing but the weights is read; or None.
        learning_rate: step size of Adam.

    Returns:
        Compiled Keras model.

    Raises:
        SnapshotError: the snapshot can't be read or is of another network.
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


def add_hyperparameters(parser, **keywords):
    """Gives a parser an option for each of the constants at the top of this file.

    Args:
        parser: `argparse.ArgumentParser`.
        keywords: further arguments of `add_argument`, for all of them.

    Returns:
        Names of the hyperparameters, a list.
    """
    group = parser.add_argument_group("hyperparameters")
    count, chance = (1, 10**9), (0.0, 1.0)
    hyperparameters = [
        ("discount_factor_gamma", DISCOUNT_FACTOR_GAMMA, chance, "weight of the next value"),
        ("learning_rate", LEARNING_RATE, (1e-12, 1e6), "step size of the Adam optimizer"),
        ("batch_size", BATCH_SIZE, count, "transitions per update"),
        ("target_update_every", TARGET_UPDATE_EVERY, count, "steps between target updates"),
        ("train_start", TRAIN_START, count, "first step with an update"),
        ("replay_buffer_size", REPLAY_BUFFER_SIZE, count, "transitions kept"),
        ("max_steps", MAX_STEPS, count, "steps of one training run"),
        ("log_every", LOG_EVERY, count, "at least this many steps between log lines"),
        ("snapshot_every", SNAPSHOT_EVERY, count, "steps between .h5 snapshots"),
        ("checkpoint_every", CHECKPOINT_EVERY, count, "steps between checkpoints, for --resume"),
        ("eval_every", EVAL_EVERY, count, "steps between evaluations"),
        ("eval_steps", EVAL_STEPS, count, "steps of one evaluation"),
        ("eval_epsilon", EVAL_EPSILON, chance, "probability of a random action in evaluation"),
        ("train_epsilon", TRAIN_EPSILON, chance, "probability of a random action in training"),
        ("q_validation_size", Q_VALIDATION_SIZE, count, "observations for avg_max_q_value"),
    ]
    for name, default, interval, meaning in hyperparameters:
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=number(*interval),
            metavar="N" if interval is count else "X",
            help=f"{meaning} (default: {default})",
            **{"default": default, **keywords},
        )
    return [name for name, *_ in hyperparameters]


def parse_args(argv=None):
    """Reads and checks the command line; exits with status 2 if it is wrong.

    Args:
        argv: list of options and values; None for the program's own.

    Returns:
        `argparse.Namespace`, in which `hyperparameters` is a dict of those.
    """
    parser = OneLineParser(
        description="Trains a DQN agent, or with --view, --eval, --images or --gif watches one.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", metavar="X.h5", help="start from the weights of this snapshot")
    add("--view", action="store_true", help="show the model's policy in a window")
    add("--eval", action="store_true", help="evaluate the model")
    add("--images", action="store_true", help="save the model's frames as EPISODE_STEP.png")
    add("--gif", metavar="FILE.gif", help="save the model's first episode as an animated GIF")
    add("--name", help="name of the run, for its directory NAME-log (default: the local time)")
    add("--resume", metavar="NAME-log", help="go on with the run in this directory")
    add("--seed", type=number(0, 2**32 - 1), help="repeats a run (default: a fresh one, printed)")
    add("--env", metavar="ID", default="MountainCar-v0", help="environment (default: %(default)s)")
    add("--test", action="store_true", help="check the installation in a few seconds")
    names = add_hyperparameters(parser)
    args = parser.parse_args(argv)
    args.play = args.view or args.eval or args.images or args.gif is not None
    if args.resume is not None:
        check_resume(parser, args)
        description, _ = read_checkpoint(args.resume)
        parser.set_defaults(**description["settings"], play=False)
        args = parser.parse_args(argv)
        check_resumed(parser, args, description)
    check_args(parser, args)
    args.hyperparameters = {name: getattr(args, name) for name in names}
    return args


def play(args):
    """Evaluates a model as `--view`, `--eval`, `--images` and `--gif` ask; returns the average."""
    render_mode = None
    if args.images or args.gif:
        render_mode = "rgb_array"
    if args.view and has_display():
        render_mode = "human"
    env = make_env(args.env, render_mode)
    model = load_or_create_model(env, args.model)
    frame_saver = FrameSaver(env, args.images, args.gif)
    with contextlib.closing(env):
        average = evaluate(env, model, args.eval_steps, args.eval_epsilon, args.seed, frame_saver)
        frame_saver.save_gif()
    print(
        f"episode_return_avg {average:.3f}" if average == average else "No episode was completed."
    )
    return average


def start_training(args, env, eval_env, on_checkpoint=None):
    """Makes what a training run needs, or finds it where `--resume` says, and trains.

    Args:
        args: what `parse_args` returns, with a seed.
        env: environment to learn in.
        eval_env: another one of the same kind.
        on_checkpoint: function that is given the `Checkpoint` each time it has been written.

    Returns:
        Mean return of the last evaluation, a float; None without one.
    """
    env = Episode(env)
    set_seed(env, args.seed)
    model = load_or_create_model(env, None if args.resume else args.model, args.learning_rate)
    target_model = keras.models.clone_model(model)
    target_model.set_weights(model.get_weights())
    replay_buffer = ReplayBuffer(args.replay_buffer_size, env.observation_space, args.seed)
    log = TrainingLog(args.log_every)
    settings = {name: getattr(args, name) for name in (*args.hyperparameters, "env", "seed")}
    settings["model"] = args.model or "none"
    every = settings["checkpoint_every"]
    checkpoint = Checkpoint(
        settings, every, env, model, target_model, replay_buffer, log, on_checkpoint
    )
    if args.resume:
        checkpoint.restore(args.resume)
        print(f"Resumed {args.resume} at step {checkpoint.saved_step}")
    else:
        checkpoint.create_run(args.name)
        print(f"Created {checkpoint.logdir}")
    logger = TensorBoardLogger(checkpoint.logdir)
    if args.resume:
        logger.log_restart(checkpoint.saved_step + 1)
    if not checkpoint.saved_step:
        logger.log_hyperparameters(settings, metrics=["episode_return_avg", "avg_max_q_value"])
    log.open(logger, args.max_steps, checkpoint.saved_step)

    used = ("learning_rate", "replay_buffer_size", "log_every", "checkpoint_every")
    loop = {name: getattr(args, name) for name in args.hyperparameters if name not in used}
    with contextlib.closing(log), contextlib.closing(checkpoint), StopSignal() as stop:
        episode_return_avg = train(
            env,
            eval_env,
            model,
            target_model,
            replay_buffer,
            log,
            checkpoint,
            stop,
            args.seed,
            **loop,
        )
    if stop.requested and checkpoint.saved_step < args.max_steps:
        print(f"Stopped. To go on: python run.py --resume {checkpoint.logdir}")
        sys.exit(128 + stop.signal)
    return episode_return_avg


def self_test(env_id):
    """Trains for a few hundred steps in a temporary directory, then loads and evaluates that."""
    same = ["--env", env_id, "--seed", "1", "--eval-steps", "1000"]
    short = "--name test --train-start 100 --q-validation-size 200 --eval-every 400 --max-steps 400"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        trained = main(parse_args([*same, *short.split()]))
        loaded = main(parse_args([*same, "--model", "test-log/test-400.h5", "--eval"]))
    if not np.array_equal(trained, loaded, equal_nan=True):
        raise OSError(f"the trained network returns {trained}, but once loaded {loaded}")
    print("The installation works: the network was trained, saved and loaded.")


def main(args):
    """Does what the command line asks for.

    Args:
        args: what `parse_args` returns.

    Returns:
        Mean return of the last evaluation, a float; None without one.

    Raises:
        WrongInput, SnapshotError, CheckpointError: it can't be done; nothing has been made.
        FloatingPointError, OSError: the training had to end.
    """
    if args.test:
        return self_test(args.env)
    if args.seed is None:
        args.seed = secrets.randbelow(2**32)
    print(f"Seed {args.seed}")
    if args.play:
        return play(args)
    return start_training(args, make_env(args.env), make_env(args.env))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    try:
        main(parse_args())
    except (WrongInput, SnapshotError, CheckpointError) as error:
        sys.exit(one_line(error, status=2))
    except (OSError, FloatingPointError, tf.errors.OpError) as error:  # of the event file the last
        sys.exit(one_line(error, status=1))
    except KeyboardInterrupt:
        sys.exit(130)
