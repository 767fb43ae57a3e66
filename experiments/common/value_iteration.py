"""The right Q-values of Mountain Car, by value iteration.

A network has to learn Q from the agent's own tries. Here the dynamics are known, so the Bellman
equation can be solved directly: on a grid of positions and velocities, every value is replaced by
what the equation gives for it, again and again, until the values hardly change (Sutton and Barto,
"Reinforcement Learning", 2018, section 4.4). Between the points of the grid, values are
interpolated. The finer the grid, the less that matters.
"""

import gymnasium as gym
import numpy as np
from scipy import ndimage

from experiments.common.dynamics import MountainCar
from support.command_line import ENV

COARSEST = 100  # points along each axis, doubled until the mean return is precise
PRECISION = 0.1  # change of the mean return that is small enough
SMALLEST_CHANGE = 1e-3  # of a value, at which value iteration ends
STARTS = 1001  # positions at which an episode may begin, evenly spread
MAX_PLAYED = 1000  # steps of an episode
ACTIONS = (0, 1, 2)
POINTS = 400  # along each axis of the grid that networks are compared with


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
        self.dynamics = MountainCar(self.car)
        self.gamma = gamma
        self.values = np.zeros((points, points))
        states = self.spread(points)
        is_over = self.dynamics.is_over(states).numpy()
        if coarser is not None:
            self.values = np.where(is_over, 0, coarser._look_up(coarser._places(states)))
        outcomes = self._outcomes(states)
        change = np.inf
        while change > SMALLEST_CHANGE:
            values = np.where(is_over, 0, self._q_values(*outcomes).max(axis=0))
            change = np.abs(values - self.values).max()
            self.values = values

    def spread(self, points):
        """States that are evenly spread over all, float array (points, points, 2)."""
        positions = np.linspace(self.car.min_position, self.car.max_position, points)
        velocities = np.linspace(-self.car.max_speed, self.car.max_speed, points)
        return np.stack(np.meshgrid(positions, velocities), axis=-1)

    def _places(self, states):
        """Where states (..., 2) are on the grid: float array (2, ...), in units of its points."""
        positions, velocities = np.moveaxis(np.asarray(states), -1, 0)
        last = len(self.values) - 1
        width = self.car.max_position - self.car.min_position
        columns = (positions - self.car.min_position) / width * last
        rows = (velocities + self.car.max_speed) / (2 * self.car.max_speed) * last
        return np.stack([rows, columns])

    def _look_up(self, places):
        """The values at places (2, ...) on the grid, float array (...)."""
        return ndimage.map_coordinates(self.values, places, order=1, mode="nearest")

    def _outcomes(self, states):
        """What each action leads to in states (..., 2).

        Returns:
            (rewards, terminated, places): arrays (3, ...), (3, ...) and (2, 3, ...).
        """
        actions = np.reshape(ACTIONS, (-1, *[1] * (states.ndim - 1)))
        next_states, rewards, terminated = self.dynamics.step(states, actions)
        return rewards.numpy(), terminated.numpy(), self._places(next_states)

    def _q_values(self, rewards, terminated, places):
        """Q-values, float array (3, ...), from what `_outcomes` returned."""
        return rewards + self.gamma * np.where(terminated, 0, self._look_up(places))

    def q_values(self, observations):
        """Q-values, floats (n, 3), for observations (n, 2): positions and velocities."""
        return self._q_values(*self._outcomes(np.asarray(observations, float))).T

    def act(self, observation):
        """The best action, an int, for one observation."""
        return int(self.q_values(observation[np.newaxis])[0].argmax())


def play(q_values, time_limit):
    """Plays greedily from `STARTS` positions at rest.

    Args:
        q_values: function from observations (n, 2) to Q-values (n, 3).
        time_limit: steps of an episode, at most.

    Returns:
        Number of steps of each episode, an int array (STARTS,).
    """
    dynamics = MountainCar(gym.make(ENV).unwrapped)
    positions = np.linspace(-0.6, -0.4, STARTS)  # as MountainCarEnv.reset draws them
    states = np.stack([positions, np.zeros(STARTS)], axis=1)
    steps = np.zeros(STARTS, int)
    is_over = np.zeros(STARTS, bool)
    while not is_over.all() and steps.max() < time_limit:
        states, _, terminated = dynamics.step(states, q_values(states).argmax(axis=1))
        steps[~is_over] += 1
        is_over |= terminated.numpy()
    return steps


def refine():
    """Solves Mountain Car without discount on ever finer grids, until `PRECISION` is reached.

    Yields:
        For each grid: the points along an axis, an int; what `play` returns.
    """
    points, solution, mean = COARSEST, None, np.inf
    while True:
        solution = Solution(points, 1.0, solution)
        steps = play(solution.q_values, MAX_PLAYED)
        yield points, steps
        if abs(steps.mean() - mean) < PRECISION:
            return
        points, mean = 2 * points, steps.mean()


def discounted(steps, gamma):
    """What a number of steps to the flag is worth: -(1 + gamma + gamma^2 + ...)."""
    return -steps if gamma == 1 else -(1 - gamma**steps) / (1 - gamma)
