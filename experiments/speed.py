"""How fast is a training step? `python -m experiments.speed`, from the repository root, compares

- lesson: `train` of run.py, with its log;
- literal-port: the article's code on today's Keras, with `model.predict` for every greedy action
  and for the targets, and `model.fit` for the update;
- Stable-Baselines3: its DQN (PyTorch), whose loss is Huber's and whose other settings are the same;
- compiled: the compiled loop of experiments.sweep, of which there is one on each core.

All train a network of the same size in Mountain Car, on the CPU with their default threads; with
--hidden-units 256, one of wider layers. They take turns, each time in a new process. Let the
computer do nothing else meanwhile: two threads of PyTorch that share a core with other work wait
for each other most of the time.

A learning step acts epsilon-greedily, steps the environment, stores the transition and makes one
update. The rate is that of the last learning steps of a run, timed from one call of `env.step` to
another. Before them come TRAIN_START steps, and a tenth as many learning steps as are timed. So the
rate leaves out imports, set-up and tracing; evaluations and snapshots are switched off; log lines
and copies to the target network are included where they are due.
"""

import sys

if not __package__:
    print("speed.py: start it with python -m experiments.speed", file=sys.stderr)
    sys.exit(2)

import importlib.util

from support.command_line import OneLineParser, number
from support.errors import plain_errors

STEPS = {  # contenders: the learning steps that each is timed over, a few seconds
    "lesson": 20000,
    "literal-port": 50,
    "Stable-Baselines3": 3000,
    "compiled": 60000,
}


def parse_args(argv=None):
    """Reads the command line: `argparse.Namespace`; raises `WrongInput`."""
    parser = OneLineParser(prog="speed", description="Compares training speeds.")
    add = parser.add_argument
    add("--rounds", type=number(1, 1000), default=3, help="measurements of each (default: 3)")
    add("--only", choices=STEPS, help="measure one once, in this process")
    add(
        "--hidden-units",
        type=number(1, 4096),
        metavar="N",
        help="neurons in each hidden layer (default: those of run.py)",
    )
    args = parser.parse_args(argv)
    needs_it = args.only in (None, "Stable-Baselines3")
    if needs_it and importlib.util.find_spec("stable_baselines3") is None:
        parser.error("no Stable-Baselines3: pip install -r experiments/speed-requirements.txt")
    return args


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import functools
import subprocess
import tempfile
import time

import gymnasium as gym
import numpy as np
import pandas as pd

import run
from experiments.common.compiled_loop import STEPS_PER_CALL, CompiledLoop
from replay_buffer import ReplayBuffer
from support.runs import Run


class Clock(gym.Wrapper):
    """Environment that notes the time of every step in `times`, in seconds."""

    def __init__(self, env):
        super().__init__(env)
        self.times = []

    def step(self, action):
        self.times.append(time.perf_counter())
        return self.env.step(action)


def train_lesson(env, max_steps):
    """Trains in `env` for `max_steps` steps as run.py does."""
    run.MAX_STEPS = max_steps
    run.EVAL_EVERY = run.SNAPSHOT_EVERY = run.CHECKPOINT_EVERY = 10**9
    run.EVAL_STEPS = 1
    env = gym.wrappers.RecordEpisodeStatistics(env)
    run.set_seed(env, 0)
    model = run.create_model(env)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        options = run.options.read("--name speed --seed 0")
        with Run(options, run.MAX_STEPS, run.CHECKPOINT_EVERY) as this_run:
            run.train(env, gym.make("MountainCar-v0"), model, this_run)


def train_port(env, max_steps):
    """Trains in `env` for `max_steps` steps with `model.predict` and `model.fit`.

    Before TRAIN_START it acts at random, which is quicker.
    """
    model, target_model = run.create_model(env), run.create_model(env)
    replay_buffer = ReplayBuffer(run.REPLAY_BUFFER_SIZE, env.observation_space)
    n_actions = env.action_space.n
    observation, _ = env.reset()

    for step in range(1, max_steps + 1):
        if step < run.TRAIN_START or np.random.random() < run.TRAIN_EPSILON:
            action = env.action_space.sample()
        else:
            inputs = [observation[np.newaxis], np.ones((1, n_actions))]
            action = model.predict(inputs, verbose=0).argmax()
        next_observation, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        replay_buffer.add(observation, action, reward, next_observation, done)
        observation = next_observation
        if done:
            observation, _ = env.reset()
        if step < run.TRAIN_START:
            continue

        if step % run.TARGET_UPDATE_EVERY == 0:
            target_model.set_weights(model.get_weights())
        batch = replay_buffer.sample(run.BATCH_SIZE)
        observations, actions, rewards, next_observations, dones = batch
        inputs = [next_observations, np.ones((run.BATCH_SIZE, n_actions))]
        next_q_values = target_model.predict(inputs, verbose=0).max(axis=1)
        targets = rewards + run.DISCOUNT_FACTOR_GAMMA * np.where(dones, 0, next_q_values)
        masks = np.eye(n_actions)[actions]
        inputs = [observations, masks]
        targets = masks * targets[:, np.newaxis]
        model.fit(inputs, targets, batch_size=run.BATCH_SIZE, verbose=0)


def train_stable_baselines3(env, max_steps):
    """Trains in `env` for `max_steps` steps with Stable-Baselines3."""
    from stable_baselines3 import DQN  # here, so that no other process loads PyTorch

    agent = DQN(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": [run.HIDDEN_UNITS, run.HIDDEN_UNITS]},
        learning_rate=run.LEARNING_RATE,
        max_grad_norm=1,
        batch_size=run.BATCH_SIZE,
        buffer_size=run.REPLAY_BUFFER_SIZE,
        gamma=run.DISCOUNT_FACTOR_GAMMA,
        learning_starts=run.TRAIN_START,
        train_freq=1,
        gradient_steps=1,
        target_update_interval=run.TARGET_UPDATE_EVERY,
        exploration_initial_eps=run.TRAIN_EPSILON,
        exploration_final_eps=run.TRAIN_EPSILON,
        device="cpu",
    )
    agent.learn(max_steps)


def measure(train, steps):
    """Learning steps per second of a training function, over its last `steps` steps."""
    env = Clock(gym.make("MountainCar-v0"))
    train(env, run.TRAIN_START + steps // 10 + steps)
    return steps / (env.times[-1] - env.times[-1 - steps])


def measure_compiled(steps):
    """Learning steps per second of the compiled loop, over about so many steps."""
    first = run.TRAIN_START + STEPS_PER_CALL  # after the first call that learns
    run.MAX_STEPS = run.EVAL_EVERY = first + steps
    run.EVAL_STEPS = 1
    times = {}

    def take_time(step):
        times[step] = time.perf_counter()

    CompiledLoop(run, "MountainCar-v0").train(0, take_time)
    start, *_, end = [step for step in times if step >= first]
    return (end - start) / (times[end] - times[start])


CONTENDERS = {  # functions of a number of learning steps, which measure in this process
    "lesson": functools.partial(measure, train_lesson),
    "literal-port": functools.partial(measure, train_port),
    "Stable-Baselines3": functools.partial(measure, train_stable_baselines3),
    "compiled": measure_compiled,
}


def main(args):
    """Measures the contenders in turns, each time in a new process, and prints a table.

    Args:
        args: what `parse_args` returned; with `only`, one is measured in this process.
    """
    run.HIDDEN_UNITS = args.hidden_units or run.HIDDEN_UNITS
    if args.only:
        print(CONTENDERS[args.only](STEPS[args.only]))
        return
    rates = {name: [] for name in CONTENDERS}
    for name in list(CONTENDERS) * args.rounds:
        words = ["--only", name, "--hidden-units", str(run.HIDDEN_UNITS)]
        command = [sys.executable, "-m", "experiments.speed", *words]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            sys.exit(process.stderr)
        rate = float(process.stdout.splitlines()[-1])
        rates[name].append(rate)
        print(f"{name} {rate:.1f} steps/s", file=sys.stderr)
    median = {name: np.median(rates[name]) for name in CONTENDERS}
    rows = []
    for name, values in rates.items():
        row = {
            "steps/s": name,
            "median": f"{median[name]:.1f}",
            "min - max": f"{min(values):.1f} - {max(values):.1f}",
        }
        for other in ("literal-port", "Stable-Baselines3"):
            row[f"/ {other}"] = f"{median[name] / median[other]:.2f}"
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    with plain_errors():
        main(args)
