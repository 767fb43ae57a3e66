"""The replay buffer: the newest transitions, from which training batches are drawn."""

import numpy as np

from support.errors import check_memory


class ReplayBuffer:
    """A ring of the newest `size` transitions, in five arrays that are allocated once.

    Experience replay (Lin 1992; Mnih et al. 2015): training on transitions drawn at random from
    the recent past, instead of on the newest, makes a batch's samples nearly independent.
    `add` and `sample` take the same time for a buffer of any size.

    Args:
        size: transitions kept, at least 1; a further one replaces the oldest.
        observation_space: Gymnasium space that gives the observations' shape and dtype; integers
            become floating-point numbers, so that a fraction in an observation isn't lost.
        seed: seed of the buffer's own random generator.
        n_steps: rewards that `sample` adds up, at least 1 (Sutton 1988; in DQN, Hessel et al.
            2018).
        gamma: weight of a reward that comes one step later.

    Raises:
        ValueError: n_steps is less than 1, or size less than n_steps.
        WrongInput: the arrays, once they are full, and a copy of them in a checkpoint don't fit
            into the memory that is free.
    """

    def __init__(self, size, observation_space, seed=None, n_steps=1, gamma=1.0):
        if n_steps < 1:
            raise ValueError(f"targets look at least 1 step ahead, not {n_steps}")
        if size < n_steps:
            raise ValueError(f"a replay buffer holds {n_steps} transitions or more, not {size}")
        dtype = np.result_type(observation_space.dtype, np.float32)
        observation = np.zeros(observation_space.shape, dtype)
        bytes_per_transition = 2 * observation.nbytes + 8 + 4 + 1  # action, reward, done
        check_memory(2 * size * bytes_per_transition, f"REPLAY_BUFFER_SIZE {size}")
        self.size = size
        self.n_steps = n_steps
        self.gamma = gamma
        self.added = 0  # transitions ever added
        self.random = np.random.default_rng(seed)
        # np.zeros takes no memory before something is written into it.
        self.observations = np.zeros((size, *observation.shape), observation.dtype)
        self.actions = np.zeros(size, np.int64)
        self.rewards = np.zeros(size, np.float32)
        self.next_observations = np.zeros((size, *observation.shape), observation.dtype)
        self.dones = np.zeros(size, bool)

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

        Raises:
            ValueError: n_steps is more than 1, and the observation is not the one that the previous
                transition led to, although that transition didn't end its episode.
        """
        row = self.added % self.size
        self.observations[row] = observation
        if self.n_steps > 1 and self.added and not self.dones[row - 1]:
            self.check_continues(row)
        self.actions[row] = action
        self.rewards[row] = reward
        self.next_observations[row] = next_observation
        self.dones[row] = done
        self.added += 1

    def check_continues(self, row):
        """Raises `ValueError` unless a row continues the row before."""
        if not np.array_equal(self.observations[row], self.next_observations[row - 1]):
            raise ValueError(
                f"to add up {self.n_steps} rewards, the last transition of each episode must be "
                "stored as done"
            )

    def sample(self, batch_size):
        """Draws transitions uniformly, with replacement.

        With `n_steps` of more than 1, each is followed to the n-th step, or to the end of its
        episode. The newest ones, which are not followed by as many steps yet, are not drawn.

        Args:
            batch_size: how many.

        Returns:
            Arrays of `batch_size` rows, copies: observations, actions (int64), rewards (float32),
            next_observations, dones (bool). The rewards are those of `n_steps` steps, discounted
            and added up; the last two are of the last of these steps.

        Raises:
            ValueError: the buffer holds fewer than `n_steps` transitions.
        """
        if len(self) < self.n_steps:
            raise ValueError(
                f"of {len(self)} transitions in a replay buffer, none can be followed for "
                f"{self.n_steps} steps"
            )
        rows = self.random.integers(len(self) - self.n_steps + 1, size=batch_size)
        if self.n_steps > 1:
            rows = (self.added + rows) % len(self)  # they were counted from the oldest
        rewards, last_rows = self.look_ahead(rows)
        return (
            self.observations[rows],
            self.actions[rows],
            rewards,
            self.next_observations[last_rows],
            self.dones[last_rows],
        )

    def look_ahead(self, rows):
        """Follows transitions to the n-th step, or to the end of their episodes.

        Args:
            rows: their indices, an array.

        Returns:
            (rewards, rows): the discounted sums of the rewards on the way, float32; and the
            indices of the last transitions.
        """
        rewards = self.rewards[rows]
        for step in range(1, self.n_steps):
            goes_on = ~self.dones[rows]
            rows = (rows + goes_on) % len(self)
            rewards += goes_on * (self.gamma**step * self.rewards[rows])
        return rewards, rows

    def get_state(self):
        """Returns what a resumed run needs: the transitions, and the random generator's state."""
        filled = slice(len(self))
        return {
            "added": self.added,
            "random": self.random.bit_generator.state,
            "observations": self.observations[filled],
            "actions": self.actions[filled],
            "rewards": self.rewards[filled],
            "next_observations": self.next_observations[filled],
            "dones": self.dones[filled],
        }

    def set_state(self, state):
        """Restores what `get_state` of a buffer of the same size returned.

        Raises:
            ValueError: the state doesn't fit this buffer.
        """
        self.added = int(state["added"])
        self.random.bit_generator.state = state["random"]
        for name in ("observations", "actions", "rewards", "next_observations", "dones"):
            own, other = getattr(self, name)[: len(self)], state[name]
            if (own.shape, own.dtype) != (other.shape, other.dtype):
                raise ValueError(
                    f"{name} of the shape {other.shape} and the dtype {other.dtype} don't fit "
                    f"those of the shape {own.shape} and the dtype {own.dtype}"
                )
            own[:] = other
