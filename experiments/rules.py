"""The rules of three environments, written with TensorFlow, so that a compiled loop can play them.

They are Gymnasium's (its `classic_control`), whose own code is Python and NumPy, which can't run
inside of a compiled loop. Numbers such as the gravity are read from Gymnasium's environments; all
arithmetic is in float64, as there.
"""

import math

import numpy as np
import tensorflow as tf


class MountainCar:
    """MountainCar-v0 (Moore 1990): a car in a valley has to get to the flag on the right.

    Each of these classes has the same three methods. A state is a float64 vector.

    Args:
        env: Gymnasium's environment, from which the constants are read.
    """

    def __init__(self, env):
        self.constants = env.unwrapped

    def draw_starts(self, random, n):
        """States at which episodes start, an array (n, state size), from a NumPy generator."""
        return np.stack([random.uniform(-0.6, -0.4, n), np.zeros(n)], axis=1)

    def observe(self, state):
        """What an agent sees in a state: a float32 vector."""
        return tf.cast(state, tf.float32)

    def step(self, state, action):
        """Takes a step.

        Args:
            state: the state before it.
            action: an integer.

        Returns:
            (next_state, reward, terminated): the state after it, a float32 and a bool.
        """
        c = self.constants
        position, velocity = tf.unstack(state)
        push = (tf.cast(action, tf.float64) - 1) * c.force
        velocity += push - tf.cos(3 * position) * c.gravity
        velocity = tf.clip_by_value(velocity, -c.max_speed, c.max_speed)
        position = tf.clip_by_value(position + velocity, c.min_position, c.max_position)
        is_at_wall = (position == c.min_position) & (velocity < 0)
        velocity = tf.where(is_at_wall, tf.zeros_like(velocity), velocity)
        terminated = (position >= c.goal_position) & (velocity >= c.goal_velocity)
        return tf.stack([position, velocity]), tf.constant(-1.0), terminated


class CartPole:
    """CartPole-v1 (Barto, Sutton and Anderson 1983): a cart balances a pole."""

    def __init__(self, env):
        self.constants = env.unwrapped

    def draw_starts(self, random, n):
        return random.uniform(-0.05, 0.05, (n, 4))

    def observe(self, state):
        return tf.cast(state, tf.float32)

    def step(self, state, action):
        c = self.constants
        _, x_velocity, angle, angular_velocity = tf.unstack(state)
        force = tf.where(tf.equal(action, 1), c.force_mag, -c.force_mag)
        force = tf.cast(force, tf.float64)
        sine, cosine = tf.sin(angle), tf.cos(angle)
        push = (force + c.polemass_length * angular_velocity**2 * sine) / c.total_mass
        inertia = c.length * (4 / 3 - c.masspole * cosine**2 / c.total_mass)
        angular_acceleration = (c.gravity * sine - cosine * push) / inertia
        x_acceleration = push - c.polemass_length * angular_acceleration * cosine / c.total_mass
        rates = tf.stack([x_velocity, x_acceleration, angular_velocity, angular_acceleration])
        next_state = state + c.tau * rates
        has_left = tf.abs(next_state[0]) > c.x_threshold
        has_fallen = tf.abs(next_state[2]) > c.theta_threshold_radians
        return next_state, tf.constant(1.0), has_left | has_fallen


class Acrobot:
    """Acrobot-v1 (Sutton 1996): two links hang from a joint; the tip has to get above a line."""

    def __init__(self, env):
        self.constants = env.unwrapped

    def draw_starts(self, random, n):
        return random.uniform(-0.1, 0.1, (n, 4)).astype(np.float32).astype(np.float64)

    def observe(self, state):
        angle_1, angle_2, velocity_1, velocity_2 = tf.unstack(state)
        cosines_and_sines = [f(angle) for angle in (angle_1, angle_2) for f in (tf.cos, tf.sin)]
        return tf.cast(tf.stack([*cosines_and_sines, velocity_1, velocity_2]), tf.float32)

    def step(self, state, action):
        c = self.constants
        torque = tf.gather(tf.constant(c.AVAIL_TORQUE, tf.float64), action)
        # Runge and Kutta's method of the fourth order: one step of length dt.
        slope_1 = self.rates(state, torque)
        slope_2 = self.rates(state + c.dt / 2 * slope_1, torque)
        slope_3 = self.rates(state + c.dt / 2 * slope_2, torque)
        slope_4 = self.rates(state + c.dt * slope_3, torque)
        state += c.dt / 6 * (slope_1 + 2 * slope_2 + 2 * slope_3 + slope_4)
        angles = tf.math.floormod(state[:2] + math.pi, 2 * math.pi) - math.pi
        limits = tf.constant([c.MAX_VEL_1, c.MAX_VEL_2], tf.float64)
        velocities = tf.clip_by_value(state[2:], -limits, limits)
        height = -tf.cos(angles[0]) - tf.cos(angles[0] + angles[1])
        terminated = height > 1
        return tf.concat([angles, velocities], 0), tf.where(terminated, 0.0, -1.0), terminated

    def rates(self, state, torque):
        """How fast a state changes, a vector of its size (Sutton and Barto 2018, chapter 11)."""
        c = self.constants
        gravity = 9.8
        angle_1, angle_2, velocity_1, velocity_2 = tf.unstack(state)
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
        return tf.stack([velocity_1, velocity_2, acceleration_1, acceleration_2])


RULES = {"MountainCar-v0": MountainCar, "CartPole-v1": CartPole, "Acrobot-v1": Acrobot}
