"""The replay buffer: the newest transitions, from which training batches are drawn."""

import numpy as np


class ReplayBuffer:
    """A ring of the newest `size` transitions, in an array allocated once.

    Experience replay (Lin 1992; Mnih et al. 2015): training on transitions drawn at random from
    the recent past, instead of on the newest, makes a batch's samples nearly independent.
    `add` and `sample` take the same time however large the buffer is.

    Args:
        size: transitions kept, at least 1; a further one replaces the oldest.
        observation_space: Gymnasium space that gives the observations' shape and dtype.
        seed: seed of the buffer's own random generator.

    Raises:
        ValueError: size is less than 1.
    """

    def __init__(self, size, observation_space, seed=None):
        if size < 1:
            raise ValueError(f"a replay buffer holds at least 1 transition, not {size}")
        self.size = size
        self.added = 0  # transitions ever added; the next one goes to row `added % size`
        self.random = np.random.default_rng(seed)
        shape, dtype = observation_space.shape, observation_space.dtype
        transition = [
            ("observations", dtype, shape),
            ("actions", np.int64),
            ("rewards", np.float32),
            ("next_observations", dtype, shape),
            ("dones", bool),
        ]
        self.transitions = np.zeros(size, transition)

    def __len__(self):
        return min(self.added, self.size)

    def add(self, observation, action, reward, next_observation, done):
        """Stores one transition, in place of the oldest when the buffer is full.

        Args:
            observation: what the agent saw, of the observation space's shape.
            action: int, what it did.
            reward: float, what it got for it.
            next_observation: what it saw then, of the observation space's shape.
            done: bool, whether the episode ended with this transition.
        """
        row = self.added % self.size
        self.transitions[row] = observation, action, reward, next_observation, done
        self.added += 1

    def sample(self, batch_size):
        """Draws transitions uniformly, with replacement.

        Args:
            batch_size: how many.

        Returns:
            Arrays of `batch_size` rows, copies: observations, actions (int64), rewards (float32),
            next_observations, dones (bool).

        Raises:
            ValueError: the buffer is empty.
        """
        if not self.added:
            raise ValueError("an empty replay buffer has nothing to sample")
        batch = self.transitions[self.random.integers(len(self), size=batch_size)]
        return tuple(batch[name] for name in batch.dtype.names)

    def get_state(self):
        """What a resumed run needs: the transitions, and where the random generator stands."""
        return {
            "added": self.added,
            "random": self.random.bit_generator.state,
            "transitions": self.transitions[: len(self)],
        }

    def set_state(self, state):
        """Takes what `get_state` of a buffer of the same size has given.

        Raises:
            ValueError: the state is of another buffer.
        """
        self.added = int(state["added"])
        self.random.bit_generator.state = state["random"]
        rows, transitions = self.transitions[: len(self)], state["transitions"]
        if (transitions.shape, transitions.dtype) != (rows.shape, rows.dtype):
            raise ValueError(f"{transitions.shape} transitions {transitions.dtype} don't fit")
        rows[:] = transitions
