"""The dynamics of three environments with TensorFlow: for one state or many, in a loop or not.

They are Gymnasium's (its `classic_control`), whose own code is Python and NumPy: that takes one
state at a time, and can't run inside of a compiled loop. Numbers such as the gravity are read from
Gymnasium's environments; all arithmetic is in float64, as there.
"""

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import math

import numpy as np
import tensorflow as tf


class MountainCar:
    """MountainCar-v0 (Moore 1990): a car in a valley has to get to the flag on the right.

    Each of these classes has the methods `draw_starts`, `observe` and `step`. They take states,
    float64 (..., state size), of any batch: a single state has the shape (state size,).

    Args:
        env: Gymnasium's environment, from which the constants are read.
        gravity, force: factors of the environment's own, numbers or arrays that broadcast with the
            batch.
    """

    def __init__(self, env, gravity=1.0, force=1.0):
        self.constants = env.unwrapped
        self.gravity = self.constants.gravity * gravity
        self.force = self.constants.force * force

    def draw_starts(self, random, n):
        """States at which episodes start, an array (n, state size), from a NumPy generator."""
        return np.stack([random.uniform(-0.6, -0.4, n), np.zeros(n)], axis=1)

    def observe(self, states):
        """What an agent sees in states: float32 (..., observation size)."""
        return tf.cast(states, tf.float32)

    def step(self, states, actions):
        """Takes a step from each of some states.

        Args:
            states: (..., state size).
            actions: integers (...), which broadcast with the batch of states.

        Returns:
            (next_states, rewards, terminated): float64 (..., state size), float32 (...), bool
            (...).
        """
        c = self.constants
        positions, velocities = tf.unstack(states, axis=-1)
        pushes = (tf.cast(actions, tf.float64) - 1) * self.force
        velocities += pushes - tf.cos(3 * positions) * self.gravity
        velocities = tf.clip_by_value(velocities, -c.max_speed, c.max_speed)
        positions = tf.clip_by_value(positions + velocities, c.min_position, c.max_position)
        are_at_wall = (positions == c.min_position) & (velocities < 0)
        velocities = tf.where(are_at_wall, tf.zeros_like(velocities), velocities)
        next_states = tf.stack([positions, velocities], axis=-1)
        return next_states, -tf.ones_like(positions, tf.float32), self.is_over(next_states)

    def is_over(self, states):
        """Whether the car is at the flag: bool (...)."""
        positions, velocities = tf.unstack(states, axis=-1)
        c = self.constants
        return (positions >= c.goal_position) & (velocities >= c.goal_velocity)


class CartPole:
    """CartPole-v1 (Barto, Sutton and Anderson 1983): a cart balances a pole."""

    def __init__(self, env):
        self.constants = env.unwrapped

    def draw_starts(self, random, n):
        return random.uniform(-0.05, 0.05, (n, 4))

    def observe(self, states):
        return tf.cast(states, tf.float32)

    def step(self, states, actions):
        c = self.constants
        _, x_velocity, angle, angular_velocity = tf.unstack(states, axis=-1)
        force = tf.where(tf.equal(actions, 1), c.force_mag, -c.force_mag)
        force = tf.cast(force, tf.float64)
        sine, cosine = tf.sin(angle), tf.cos(angle)
        push = (force + c.polemass_length * angular_velocity**2 * sine) / c.total_mass
        inertia = c.length * (4 / 3 - c.masspole * cosine**2 / c.total_mass)
        angular_acceleration = (c.gravity * sine - cosine * push) / inertia
        x_acceleration = push - c.polemass_length * angular_acceleration * cosine / c.total_mass
        rates = [x_velocity, x_acceleration, angular_velocity, angular_acceleration]
        next_states = states + c.tau * tf.stack(rates, axis=-1)
        have_left = tf.abs(next_states[..., 0]) > c.x_threshold
        have_fallen = tf.abs(next_states[..., 2]) > c.theta_threshold_radians
        return next_states, tf.ones_like(angle, tf.float32), have_left | have_fallen


class Acrobot:
    """Acrobot-v1 (Sutton 1996): two links hang from a joint; the tip has to get above a line."""

    def __init__(self, env):
        self.constants = env.unwrapped

    def draw_starts(self, random, n):
        return random.uniform(-0.1, 0.1, (n, 4)).astype(np.float32).astype(np.float64)

    def observe(self, states):
        angle_1, angle_2, velocity_1, velocity_2 = tf.unstack(states, axis=-1)
        cosines_and_sines = [f(angle) for angle in (angle_1, angle_2) for f in (tf.cos, tf.sin)]
        numbers = tf.stack([*cosines_and_sines, velocity_1, velocity_2], axis=-1)
        return tf.cast(numbers, tf.float32)

    def step(self, states, actions):
        c = self.constants
        torque = tf.gather(tf.constant(c.AVAIL_TORQUE, tf.float64), actions)
        # Runge and Kutta's method of the fourth order: one step of length dt.
        slope_1 = self.rates(states, torque)
        slope_2 = self.rates(states + c.dt / 2 * slope_1, torque)
        slope_3 = self.rates(states + c.dt / 2 * slope_2, torque)
        slope_4 = self.rates(states + c.dt * slope_3, torque)
        states += c.dt / 6 * (slope_1 + 2 * slope_2 + 2 * slope_3 + slope_4)
        angles = tf.math.floormod(states[..., :2] + math.pi, 2 * math.pi) - math.pi
        limits = tf.constant([c.MAX_VEL_1, c.MAX_VEL_2], tf.float64)
        velocities = tf.clip_by_value(states[..., 2:], -limits, limits)
        heights = -tf.cos(angles[..., 0]) - tf.cos(angles[..., 0] + angles[..., 1])
        terminated = heights > 1
        next_states = tf.concat([angles, velocities], axis=-1)
        return next_states, tf.where(terminated, 0.0, -1.0), terminated

    def rates(self, states, torque):
        """How fast states change, (..., state size) (Sutton and Barto 2018, chapter 11)."""
        c = self.constants
        gravity = 9.8
        angle_1, angle_2, velocity_1, velocity_2 = tf.unstack(states, axis=-1)
        mass_1, mass_2, length = c.LINK_MASS_1, c.LINK_MASS_2, c.LINK_LENGTH_1
        centre_1, centre_2, inertia = c.LINK_COM_POS_1, c.LINK_COM_POS_2, c.LINK_MOI
        arm = length * centre_2
        cosine, sine = tf.cos(angle_2), tf.sin(angle_2)
        distances = length**2 + centre_2**2 + 2 * arm * cosine
        d_1 = mass_1 * centre_1**2 + mass_2 * distances + 2 * inertia
        d_2 = mass_2 * (centre_2**2 + arm * cosine) + inertia
        phi_2 = mass_2 * centre_2 * gravity * tf.sin(angle_1 + angle_2)
        phi_1 = (
            -mass_2 * arm * sine * velocity_2 * (velocity_2 + 2 * velocity_1)
            + (mass_1 * centre_1 + mass_2 * length) * gravity * tf.sin(angle_1)
            + phi_2
        )
        pull = torque + d_2 / d_1 * phi_1 - mass_2 * arm * velocity_1**2 * sine - phi_2
        acceleration_2 = pull / (mass_2 * centre_2**2 + inertia - d_2**2 / d_1)
        acceleration_1 = -(d_2 * acceleration_2 + phi_1) / d_1
        return tf.stack([velocity_1, velocity_2, acceleration_1, acceleration_2], axis=-1)


DYNAMICS = {"MountainCar-v0": MountainCar, "CartPole-v1": CartPole, "Acrobot-v1": Acrobot}
