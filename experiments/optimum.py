"""How good can it get? Computes the best possible return in Mountain Car, by value iteration:

    python -m experiments.optimum
    python -m experiments.optimum first-log/first-best.h5

The second line says how far the values that a network has learned are from the right ones.

A network has to learn Q from the agent's own tries. Here the rules of the problem are known, so the
Bellman equation can be solved directly: on a grid of positions and velocities, every value is
replaced by what the equation gives for it, again and again, until the values hardly change (Sutton
and Barto, "Reinforcement Learning", 2018, section 4.4). Between the points of the grid, values are
interpolated. The finer the grid, the less that matters; so the grid is refined until the return of
the resulting policy hardly changes.
"""

import sys

if not __package__:
    print("optimum.py: start it with python -m experiments.optimum", file=sys.stderr)
    sys.exit(2)

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import functools

import gymnasium as gym
import numpy as np
import pandas as pd
from scipy import ndimage

from experiments.mountains import step
from experiments.policies import load_policy, play, readable
from support.command_line import OneLineParser, new_file, number
from support.errors import WrongInput, plain_errors
from support.files import write_file
from support.options import ENV

COARSEST = 100  # points along each axis, doubled until the mean return is precise
PRECISION = 0.1  # change of the mean return that is small enough
SMALLEST_CHANGE = 1e-3  # of a value, at which value iteration ends
STARTS = 1001  # positions at which an episode may begin, evenly spread
MAX_PLAYED = 1000  # steps of an episode
ACTIONS = (0, 1, 2)
POINTS = 400  # along each axis of the grid that networks are compared with
EPISODES = 20  # that each of them plays
SEED = 0  # of the first of these episodes


class Solution:
    """The values of all states of Mountain Car, on a grid of points.

    Args:
        points: along each axis, int.
        gamma: discount factor.
        coarser: a `Solution` to start from, which makes it quicker; or None.

    Attributes:
        values: highest Q-values, float array (points, points); the first index is that of the
            velocity, the second that of the position. 0 where the episode is over.
    """

    def __init__(self, points, gamma, coarser=None):
        self.car = gym.make(ENV).unwrapped
        self.gamma = gamma
        self.values = np.zeros((points, points))
        positions = np.linspace(self.car.min_position, self.car.max_position, points)
        velocities = np.linspace(-self.car.max_speed, self.car.max_speed, points)
        states = [axis.ravel() for axis in np.meshgrid(positions, velocities)]
        is_over = self._is_over(*states).reshape(points, points)
        if coarser is not None:
            self.values = np.where(is_over, 0, coarser._look_up(*states).reshape(points, points))
        outcomes = [self._outcome(*states, action) for action in ACTIONS]
        change = np.inf
        while change > SMALLEST_CHANGE:
            q_values = [self._q_value(*outcome) for outcome in outcomes]
            values = np.where(is_over, 0, np.max(q_values, axis=0).reshape(points, points))
            change = np.abs(values - self.values).max()
            self.values = values

    def _is_over(self, positions, velocities):
        return (positions >= self.car.goal_position) & (velocities >= self.car.goal_velocity)

    def _places(self, positions, velocities):
        """Where states are on the grid: float array (2, n), in units of its points."""
        last = len(self.values) - 1
        width = self.car.max_position - self.car.min_position
        columns = (positions - self.car.min_position) / width * last
        rows = (velocities + self.car.max_speed) / (2 * self.car.max_speed) * last
        return np.stack([rows, columns])

    def _look_up(self, positions, velocities):
        places = self._places(positions, velocities)
        return ndimage.map_coordinates(self.values, places, order=1, mode="nearest")

    def _outcome(self, positions, velocities, action):
        """What an action leads to: whether the episode is over, and the places on the grid."""
        actions = np.full(len(positions), action)
        following = step(self.car, positions, velocities, actions, gravity=1.0, force=1.0)
        return self._is_over(*following), self._places(*following)

    def _q_value(self, is_over, places):
        next_values = ndimage.map_coordinates(self.values, places, order=1, mode="nearest")
        return -1 + self.gamma * np.where(is_over, 0, next_values)

    def q_values(self, observations):
        """Q-values, floats (n, 3), for observations (n, 2): positions and velocities."""
        positions, velocities = np.asarray(observations, float).T
        outcomes = [self._outcome(positions, velocities, action) for action in ACTIONS]
        return np.stack([self._q_value(*outcome) for outcome in outcomes], axis=1)

    def act(self, observation):
        """The best action, an int, for one observation."""
        return int(self.q_values(observation[np.newaxis])[0].argmax())

    def play(self):
        """Plays greedily from `STARTS` positions at rest, for at most `MAX_PLAYED` steps.

        Returns:
            Number of steps of each episode, an int array (STARTS,).
        """
        positions = np.linspace(-0.6, -0.4, STARTS)  # as MountainCarEnv.reset draws them
        velocities = np.zeros(STARTS)
        steps = np.zeros(STARTS, int)
        is_over = np.zeros(STARTS, bool)
        while not is_over.all() and steps.max() < MAX_PLAYED:
            q_values = self.q_values(np.stack([positions, velocities], axis=1))
            actions = q_values.argmax(axis=1)
            positions, velocities = step(self.car, positions, velocities, actions, 1.0, 1.0)
            steps[~is_over] += 1
            is_over |= self._is_over(positions, velocities)
        return steps


def refine():
    """Solves Mountain Car without discount on ever finer grids, until `PRECISION` is reached.

    Yields:
        For each grid: the points along an axis, an int; what `Solution.play` returns.
    """
    points, solution, mean = COARSEST, None, np.inf
    while True:
        solution = Solution(points, 1.0, solution)
        steps = solution.play()
        yield points, steps
        if abs(steps.mean() - mean) < PRECISION:
            return
        points, mean = 2 * points, steps.mean()


def discounted(steps, gamma):
    """What a number of steps to the flag is worth: -(1 + gamma + gamma^2 + ...)."""
    return -steps if gamma == 1 else -(1 - gamma**steps) / (1 - gamma)


def compare(policy, solution):
    """How far the Q-values of a policy are from the right ones, in the states that it visits.

    Args:
        policy: `Policy` in Mountain Car.
        solution: `Solution` with the discount factor with which the policy was trained.

    Returns:
        Dict of figures over `EPISODES` episodes: `return`, the mean; `error`, the mean difference
        of the highest Q-value from the right one, and `absolute error`, that of its absolute value;
        `spread`, the mean difference between the highest and the lowest Q-value of a state, and
        `right spread`, that of the right ones; `lost`, by how much the greedy action is worse than
        the best one, according to the right Q-values, on average over the states.
    """
    observations, returns = [], []
    for episode in range(EPISODES):
        seed = SEED if episode == 0 else None
        *states, (_, episode_return, *_) = play(policy.env, policy.act, seed)
        observations += [observation for observation, *_ in states]
        returns.append(episode_return)
    learned = policy.q_values(np.array(observations))
    right = solution.q_values(observations)
    errors = learned.max(axis=1) - right.max(axis=1)
    chosen = np.take_along_axis(right, learned.argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]
    return {
        "return": np.mean(returns),
        "error": errors.mean(),
        "absolute error": np.abs(errors).mean(),
        "spread": np.ptp(learned, axis=1).mean(),
        "right spread": np.ptp(right, axis=1).mean(),
        "lost": (right.max(axis=1) - chosen).mean(),
    }


def main(argv=None):
    parser = OneLineParser(prog="optimum", description="Computes the best return in Mountain Car.")
    add = parser.add_argument
    gamma = {"type": number(0.0, 1.0), "metavar": "X", "default": 0.99}
    add("snapshots", nargs="*", metavar="X.h5", help="compare the values of these with the optimum")
    add("--gamma", help="discount factor for the optimum (default: 0.99)", **gamma)
    add("--save", metavar="FILE", type=new_file(".csv"), help="write the figures to a .csv file")
    args = parser.parse_args(argv)
    if args.snapshots:
        figures = compare_all([load_policy(filename) for filename in args.snapshots])
        mean = pd.DataFrame([figures.mean()], ["mean"])
        shown = pd.concat([figures, mean]) if len(figures) > 1 else figures
        print(shown.to_string(float_format="{:.2f}".format))
        if args.save is not None:
            write_file(args.save, figures.to_csv(index_label="snapshot").encode())
            print(f"Saved {args.save}")
    elif args.save is not None:
        parser.error("--save is for the figures of snapshots; name some")
    else:
        print_optimum(args.gamma)


def compare_all(policies):
    """What `compare` returns for each of some `Policy`s: pandas.DataFrame with a row for each.

    Raises `WrongInput` if one is for another environment.
    """
    for policy in policies:
        if policy.env_id != ENV:
            raise WrongInput(f"{policy.filename} is for {policy.env_id}, and not for {ENV}")
    solve = functools.cache(lambda gamma: Solution(POINTS, gamma))
    names = [readable(policy.filename) for policy in policies]
    return pd.DataFrame([compare(policy, solve(policy.gamma)) for policy in policies], names)


def print_optimum(gamma):
    """Computes the optimum and prints it for each grid, also discounted by `gamma`, a float."""
    print(f"grid         mean return    discounted by {gamma:g}")
    for points, steps in refine():
        value = discounted(steps, gamma).mean()
        print(f"{f'{points} x {points}':12} {-steps.mean():11.2f}    {value:.2f}", flush=True)
    print(
        f"The optimum is {-steps.mean():.1f}: the mean over {STARTS} starts, of which the best "
        f"returns {-steps.min()} and the worst {-steps.max()}."
    )


if __name__ == "__main__":
    with plain_errors():
        main()
