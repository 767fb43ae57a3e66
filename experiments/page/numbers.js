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
    const rows = new Float32Array(inputs * outputs); // the weights of each output side by side
    for (let i = 0; i < inputs; i++) {
      for (let o = 0; o < outputs; o++) {
        rows[o * inputs + i] = kernel[i * outputs + o];
      }
    }
    const layer = { inputs, outputs, rows, bias, isHidden: n + 2 < sizes.length };
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
function applyLayer(layer, values, count) {
  const results = new Float32Array(count * layer.outputs);
  const together = count - (count % 4);
  for (let row = 0; row < together; row += 4) {
    applyToFour(layer, values, row, results);
  }
  for (let row = together; row < count; row++) {
    applyToOne(layer, values, row, results);
  }
  if (layer.scale) {
    normalize(layer.scale, results);
  }
  return layer.isHidden ? results.map((value) => (value > 0 ? value : 0)) : results;
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

function applyToOne(layer, values, row, results) {
  for (let o = 0; o < layer.outputs; o++) {
    results[row * layer.outputs + o] = weightedSum(layer, values, row, o);
  }
}

function weightedSum({ inputs, rows, bias }, values, row, output) {
  let sum = bias[output];
  for (let i = 0; i < inputs; i++) {
    sum += rows[output * inputs + i] * values[row * inputs + i];
  }
  return sum;
}

// The same for four rows and two outputs at a time, which is quicker: each weight that is fetched
// serves four sums, each value two.
function applyToFour(layer, values, row, results) {
  const { inputs, outputs, rows, bias } = layer;
  const [a, b, c, d] = [row * inputs, (row + 1) * inputs, (row + 2) * inputs, (row + 3) * inputs];
  const [toA, toB, toC, toD] = [0, 1, 2, 3].map((n) => (row + n) * outputs);
  const paired = outputs - (outputs % 2);
  for (let o = 0; o < paired; o += 2) {
    const [first, second] = [o * inputs, (o + 1) * inputs];
    let [a1, b1, c1, d1] = [bias[o], bias[o], bias[o], bias[o]];
    let [a2, b2, c2, d2] = [bias[o + 1], bias[o + 1], bias[o + 1], bias[o + 1]];
    for (let i = 0; i < inputs; i++) {
      const weight1 = rows[first + i];
      const weight2 = rows[second + i];
      a1 += weight1 * values[a + i];
      b1 += weight1 * values[b + i];
      c1 += weight1 * values[c + i];
      d1 += weight1 * values[d + i];
      a2 += weight2 * values[a + i];
      b2 += weight2 * values[b + i];
      c2 += weight2 * values[c + i];
      d2 += weight2 * values[d + i];
    }
    [results[toA + o], results[toA + o + 1]] = [a1, a2];
    [results[toB + o], results[toB + o + 1]] = [b1, b2];
    [results[toC + o], results[toC + o + 1]] = [c1, c2];
    [results[toD + o], results[toD + o + 1]] = [d1, d2];
  }
  for (let o = paired; o < outputs; o++) {
    for (let n = 0; n < 4; n++) {
      results[(row + n) * outputs + o] = weightedSum(layer, values, row + n, o);
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
