// Mountain Car and the Q-network, with the numbers that the Python program gets.
"use strict";

const CAR = {
  minPosition: -1.2,
  maxPosition: 0.6,
  maxSpeed: 0.07,
  goalPosition: 0.5,
  goalVelocity: 0,
  force: 0.001,
  gravity: 0.0025,
  timeLimit: 200,
};
const REWARD = -1;
const EPSILON = 1e-6; // that keeps Keras's RMSNormalization from dividing by 0
const ACTIONS = ["push left", "no push", "push right"];

function clip(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// One step of Gymnasium's MountainCar-v0. `mountain` has the factors of gravity and force.
function stepCar(state, action, mountain = { gravity: 1, force: 1 }) {
  let velocity =
    state.velocity +
    (action - 1) * CAR.force * mountain.force +
    Math.cos(3 * state.position) * (-CAR.gravity * mountain.gravity);
  velocity = clip(velocity, -CAR.maxSpeed, CAR.maxSpeed);
  const position = clip(state.position + velocity, CAR.minPosition, CAR.maxPosition);
  if (position === CAR.minPosition && velocity < 0) {
    velocity = 0;
  }
  const atFlag = position >= CAR.goalPosition && velocity >= CAR.goalVelocity;
  return { position, velocity, atFlag };
}

// The height of the valley at a position, between 0.1 and 1.
function height(position) {
  return Math.sin(3 * position) * 0.45 + 0.55;
}

// Numbers of half precision: a bit for the sign, 5 for the exponent, 10 for the fraction.
function decodeHalves(base64) {
  const text = atob(base64);
  const numbers = new Float32Array(text.length / 2);
  for (let i = 0; i < numbers.length; i++) {
    const bits = text.charCodeAt(2 * i) + 256 * text.charCodeAt(2 * i + 1);
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
    numbers[i] = sign * size;
  }
  return numbers;
}

// A network from its weights in one row: for each layer the kernel (inputs x outputs), then the
// bias, then, if it is hidden and `normalized`, the scale of its normalization.
// `sizes` are the numbers of values before, between and after the layers.
function makeNetwork(weights, sizes, normalized) {
  const layers = [];
  let start = 0;
  const take = (count) => {
    start += count;
    return weights.subarray(start - count, start);
  };
  for (let n = 0; n + 1 < sizes.length; n++) {
    const [inputs, outputs] = [sizes[n], sizes[n + 1]];
    const kernel = take(inputs * outputs);
    const bias = take(outputs);
    const layer = { inputs, outputs, kernel, bias, isHidden: n + 2 < sizes.length };
    if (layer.isHidden && normalized) {
      layer.scale = take(outputs);
    }
    layers.push(layer);
  }
  return { layers };
}

// Q-values of `count` states, three in a row for each, from a row of positions and velocities.
function predict(network, observations, count) {
  let values = observations;
  for (const layer of network.layers) {
    values = applyLayer(layer, values, count);
  }
  return values;
}

// The outputs of a layer for `count` rows of values.
function applyLayer({ inputs, outputs, kernel, bias, scale, isHidden }, values, count) {
  const results = new Float32Array(count * outputs);
  for (let row = 0; row < count; row++) {
    for (let o = 0; o < outputs; o++) {
      let sum = bias[o];
      for (let i = 0; i < inputs; i++) {
        sum += kernel[i * outputs + o] * values[row * inputs + i];
      }
      results[row * outputs + o] = sum;
    }
  }
  if (scale) {
    normalize(scale, results);
  }
  return isHidden ? results.map((value) => (value > 0 ? value : 0)) : results;
}

// Divides each row of values by the root of their mean square, then scales its columns.
function normalize(scale, values) {
  const width = scale.length;
  for (let start = 0; start < values.length; start += width) {
    let meanSquare = EPSILON;
    for (let i = 0; i < width; i++) {
      meanSquare += values[start + i] ** 2 / width;
    }
    for (let i = 0; i < width; i++) {
      values[start + i] *= scale[i] / Math.sqrt(meanSquare);
    }
  }
}

function qValues(network, state) {
  return predict(network, Float32Array.of(state.position, state.velocity), 1);
}

// The index of the highest value; of several, the first, as NumPy has it.
function argmax(values) {
  let best = 0;
  for (let n = 1; n < values.length; n++) {
    if (values[n] > values[best]) {
      best = n;
    }
  }
  return best;
}

// The states of an episode that a network drives greedily, its start included.
function playEpisode(network, start, mountain) {
  const states = [{ ...start, atFlag: false }];
  while (states.length <= CAR.timeLimit && !states[states.length - 1].atFlag) {
    const state = states[states.length - 1];
    states.push(stepCar(state, argmax(qValues(network, state)), mountain));
  }
  return states;
}

// What `steps` steps to the flag are worth: -1 - gamma - gamma^2 - ...
function worth(steps, gamma) {
  let value = 0;
  for (let n = 0; n < steps; n++) {
    value = REWARD + gamma * value;
  }
  return value;
}
