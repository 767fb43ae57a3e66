// The page: what is shown, and what the reader does.

const REDUCED_MOTION = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
const STEPS_PER_SECOND = 30; // as in the environment's own window
const COARSE = 24; // cells along each axis of the plane while the slider moves
const FINE = 120; // and at rest
const SLICE = 30; // milliseconds of work at a time, so that the page stays responsive
const REST = 30; // milliseconds without a change after which the plane is drawn finely
const PLANE_STEPS = 40; // presses of an arrow key that take the car across the plane
const WORTH_STEPS = [1, 10, 50, 100, 200]; // whose worth the page shows
const LOWEST_GAMMA = 0.8; // on its slider, if the run's own is not lower
const SNAPSHOT_PACE = 250; // milliseconds for each snapshot while the slider moves by itself
const ACTION_COLOURS = [[33, 102, 172], [224, 224, 224], [244, 161, 47]];
const VIRIDIS = makeRamp([ // from low to high
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
  [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
]);
const BLUE_TO_BROWN = makeRamp([ // too low, right, too high
  [5, 48, 97], [67, 147, 195], [247, 247, 247], [191, 129, 45], [84, 48, 5],
]);
const MAX_ERROR_SHOWN = 40; // at which the colours of the difference end
const HINTS = {
  value:
    "Each point is a state. First the plane is bright: few costs expected. It darkens until the car finds " +
    "the flag; then yellow spreads backwards from there, along the car's path.",
  action:
    "Each point is a state, its colour the push with the highest Q-value. On its path, a good driver " +
    "mostly pushes the way the car rolls; where the car never goes, the network only guesses.",
  error:
    "Each point is a state. White: the highest Q-value is what a perfect driver pays. Blue: too " +
    "pessimistic; brown: too hopeful. Where the car never goes, it may stay wrong.",
};

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const optima = data.optima.map(({ points, values }) => ({ points, values: decodeHalves(values) }));
const networks = new Map();
const state = {
  run: data.runs[0],
  number: data.runs[0].snapshots.length - 1, // of the snapshot
  view: "value",
  mountain: { gravity: 1, force: 1 },
  start: -0.5,
  car: null, // position, velocity, atFlag
  path: [], // states since the car was put where it started
  whole: [], // the states of that whole episode, if the network drives to its end
  held: false, // whether the reader holds the car
  own: null, // the reader's own episode: states; null while the network drives
  pedals: new Map(), // keys and buttons that the reader holds, the newest last: their actions
  playing: !REDUCED_MOTION,
  sliding: false, // whether the slider moves by itself
};

function networkOf(run, number) {
  const snapshot = run.snapshots[number];
  if (!networks.has(snapshot)) {
    const weights = decodeHalves(snapshot.weights);
    networks.set(snapshot, makeNetwork(weights, run.sizes, run.normalized));
  }
  return networks.get(snapshot);
}

function network() {
  return networkOf(state.run, state.number);
}

// Where a position is in the valley, from 0 at the left end to 1; and the other way round.
function shareOf(position) {
  return (position - CAR.minPosition) / (CAR.maxPosition - CAR.minPosition);
}

function positionAt(share) {
  return CAR.minPosition + share * (CAR.maxPosition - CAR.minPosition);
}

// The right highest Q-value of a state, interpolated between the points of the grid.
function rightValue(position, velocity) {
  const { points, values } = optima[state.run.optimum];
  const last = points - 1;
  const x = shareOf(position) * last;
  const y = ((velocity + CAR.maxSpeed) / (2 * CAR.maxSpeed)) * last;
  const column = clip(Math.floor(x), 0, last - 1);
  const row = clip(Math.floor(y), 0, last - 1);
  const at = (r, c) => values[r * points + c];
  const below = at(row, column) + (x - column) * (at(row, column + 1) - at(row, column));
  const above =
    at(row + 1, column) + (x - column) * (at(row + 1, column + 1) - at(row + 1, column));
  return below + (y - row) * (above - below);
}

function show(number, digits = 2) {
  const text = number.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

// ---------------------------------------------------------------------------------------------
// Colours

// 256 colours, interpolated between a few that are spread evenly.
function makeRamp(colours) {
  return Array.from({ length: 256 }, (_, index) => {
    const place = (index / 255) * (colours.length - 1);
    const n = Math.min(Math.floor(place), colours.length - 2);
    return colours[n].map((from, channel) => from + (place - n) * (colours[n + 1][channel] - from));
  });
}

function colourOnRamp(ramp, share) {
  return ramp[Math.round(clip(share, 0, 1) * (ramp.length - 1))];
}

function css([red, green, blue]) {
  return `rgb(${Math.round(red)}, ${Math.round(green)}, ${Math.round(blue)})`;
}

// The lowest value on the scale of colours: that of more steps than the best driver ever needs.
function lowestValue() {
  return Math.min(worth(120, state.run.gamma), -1);
}

function colourOf(q, position, velocity) {
  if (state.view === "action") {
    return ACTION_COLOURS[argmax(q)];
  }
  const value = q[argmax(q)];
  if (state.view === "value") {
    return colourOnRamp(VIRIDIS, 1 - value / lowestValue());
  }
  const error = value - rightValue(position, velocity);
  return colourOnRamp(BLUE_TO_BROWN, 0.5 + error / MAX_ERROR_SHOWN / 2);
}

// ---------------------------------------------------------------------------------------------
// The plane

const planeImage = document.createElement("canvas"); // the colours, one pixel for each cell
let planeJob = 0; // number of the newest drawing; older ones that are still at work stop
let restTimer = 0;

function velocityOfCell(row, cells) {
  return CAR.maxSpeed - (2 * CAR.maxSpeed * (row + 0.5)) / cells;
}

// Colours some rows of cells into an image.
function colourRows(image, cells, first, count) {
  const observations = new Float32Array(2 * cells * count);
  for (let n = 0; n < cells * count; n++) {
    observations[2 * n] = positionAt(((n % cells) + 0.5) / cells);
    observations[2 * n + 1] = velocityOfCell(first + Math.floor(n / cells), cells);
  }
  const values = predict(network(), observations, cells * count);
  for (let n = 0; n < cells * count; n++) {
    const q = values.subarray(3 * n, 3 * n + 3);
    const colour = colourOf(q, observations[2 * n], observations[2 * n + 1]);
    const place = 4 * (first * cells + n);
    image.data.set(colour, place);
    image.data[place + 3] = 255;
  }
}

function finishPlane(image, cells) {
  planeImage.width = planeImage.height = cells;
  planeImage.getContext("2d").putImageData(image, 0, 0);
  drawPlane();
  element("plane").dataset.cells = cells;
}

// Draws the plane coarsely at once, and finely when nothing has changed for a moment.
function colourPlane() {
  planeJob += 1;
  const image = new ImageData(COARSE, COARSE);
  colourRows(image, COARSE, 0, COARSE);
  finishPlane(image, COARSE);
  clearTimeout(restTimer);
  restTimer = setTimeout(colourFinely, REST, planeJob);
}

function colourFinely(job) {
  const image = new ImageData(FINE, FINE);
  let row = 0;
  function work() {
    const end = performance.now() + SLICE;
    while (job === planeJob && row < FINE && performance.now() < end) {
      colourRows(image, FINE, row, 1);
      row += 1;
    }
    if (job !== planeJob) {
      return;
    }
    if (row < FINE) {
      setTimeout(work);
    } else {
      finishPlane(image, FINE);
    }
  }
  work();
}

// Makes a canvas as sharp as the screen; gives its context, and its size in CSS pixels.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

function drawPlane() {
  const { context, width, height } = prepare(element("plane"));
  const x = (position) => shareOf(position) * width;
  const y = (velocity) => (0.5 - velocity / (2 * CAR.maxSpeed)) * height;
  context.imageSmoothingEnabled = state.view !== "action";
  context.drawImage(planeImage, 0, 0, width, height);

  context.setLineDash([5, 4]);
  context.strokeStyle = "#000";
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(x(CAR.goalPosition), 0);
  context.lineTo(x(CAR.goalPosition), height);
  context.stroke();
  context.setLineDash([]);
  context.lineWidth = 0.5;
  context.beginPath();
  context.moveTo(0, y(0));
  context.lineTo(width, y(0));
  context.stroke();

  drawLine(context, state.whole, x, y, 1, "#fff");
  drawPath(context, state.path, x, y, "#fff");
  if (state.own) {
    drawPath(context, state.own, x, y, "#ff7fd0");
  }
}

function drawLine(context, path, x, y, width, style) {
  context.lineWidth = width;
  context.strokeStyle = style;
  context.beginPath();
  for (const { position, velocity } of path) {
    context.lineTo(x(position), y(velocity));
  }
  context.stroke();
}

function drawPath(context, path, x, y, colour) {
  drawLine(context, path, x, y, 4, "#000");
  drawLine(context, path, x, y, 2, colour);
  const { position, velocity } = path[path.length - 1];
  context.beginPath();
  context.arc(x(position), y(velocity), 5, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = "#000";
  context.stroke();
}

function drawLegend() {
  const legend = element("legend");
  legend.replaceChildren();
  const text = (words) => legend.append(words);
  if (state.view === "action") {
    ACTIONS.forEach((name, action) => {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = css(ACTION_COLOURS[action]);
      const label = document.createElement("span");
      label.append(swatch, name);
      legend.append(label);
    });
    return;
  }
  const ramp = document.createElement("span");
  ramp.className = "ramp";
  const colours = (state.view === "value" ? VIRIDIS : BLUE_TO_BROWN).map(css);
  ramp.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
  const [low, high] =
    state.view === "value" ? [lowestValue(), 0] : [-MAX_ERROR_SHOWN, MAX_ERROR_SHOWN];
  text(state.view === "value" ? `${show(low, 0)} (far away)` : show(low, 0));
  legend.append(ramp);
  text(state.view === "value" ? `${high} and above` : `+${high}`);
}

// ---------------------------------------------------------------------------------------------
// The valley

function drawValley() {
  const { context, width, height: tall } = prepare(element("valley"));
  const x = (position) => shareOf(position) * width;
  const y = (position) => tall * (1.02 - 0.78 * height(position));
  context.clearRect(0, 0, width, tall);
  context.strokeStyle = "#333";
  context.lineWidth = 2;
  context.beginPath();
  for (let n = 0; n <= 100; n++) {
    const position = positionAt(n / 100);
    context.lineTo(x(position), y(position));
  }
  context.stroke();
  context.fillStyle = "#333";
  context.fillRect(0, y(CAR.minPosition) - 40, 4, 40); // the wall

  const [poleX, poleY] = [x(CAR.goalPosition), y(CAR.goalPosition)];
  context.beginPath();
  context.moveTo(poleX, poleY);
  context.lineTo(poleX, poleY - 34);
  context.stroke();
  context.fillStyle = "#b35900";
  context.beginPath();
  context.moveTo(poleX, poleY - 34);
  context.lineTo(poleX + 18, poleY - 28);
  context.lineTo(poleX, poleY - 22);
  context.fill();

  if (state.own) {
    drawCar(context, x, y, state.path[Math.min(state.own.length, state.path.length) - 1], "#bbb");
    drawCar(context, x, y, state.own[state.own.length - 1], "#a8157a", pedal());
  } else {
    drawCar(context, x, y, state.car, "#1f4e8c", nextAction());
  }
}

function drawCar(context, x, y, { position }, colour, action = 1) {
  const slope = Math.atan2(y(position + 0.01) - y(position - 0.01), x(0.02) - x(0));
  context.save();
  context.translate(x(position), y(position));
  context.rotate(slope);
  context.fillStyle = colour;
  context.fillRect(-14, -17, 28, 11);
  context.fillStyle = "#222";
  for (const wheel of [-8, 8]) {
    context.beginPath();
    context.arc(wheel, -5, 4.5, 0, 2 * Math.PI);
    context.fill();
  }
  if (action !== 1) {
    const way = action - 1;
    context.fillStyle = "#b35900";
    context.beginPath();
    context.moveTo(way * 34, -12);
    context.lineTo(way * 20, -19);
    context.lineTo(way * 20, -5);
    context.fill();
  }
  context.restore();
}

// ---------------------------------------------------------------------------------------------
// The car

function nextAction() {
  return argmax(qValues(network(), state.car));
}

function isOver(path) {
  return path[path.length - 1].atFlag || path.length > CAR.timeLimit;
}

function putCar(position, velocity = 0) {
  state.car = { position, velocity, atFlag: false };
  state.path = [state.car];
  state.whole = playEpisode(network(), state.car, state.mountain);
  state.own = null;
  element("drive").textContent = "Drive";
  element("drive-state").textContent = "Your return will appear here, beside the network's.";
  showCar();
}

function moveCar() {
  if (isOver(state.path)) {
    return;
  }
  state.car = stepCar(state.car, nextAction(), state.mountain);
  state.path.push(state.car);
  showCar();
}

function showCar() {
  drawValley();
  drawPlane();
  showUpdate();
  element("car-state").textContent = describe("", state.path);
}

// Where a car is, how fast it moves, and what its episode has returned so far.
function describe(whose, path) {
  const { position, velocity, atFlag } = path[path.length - 1];
  const steps = path.length - 1;
  const end = atFlag ? ", at the flag" : steps >= CAR.timeLimit ? ", out of time" : " so far";
  const place = `position ${show(position)}, velocity ${show(velocity, 3)}`;
  return `${whose}${place}; return ${show(-steps, 0)}${end}`;
}

function moveOwnCar() {
  if (isOver(state.own)) {
    return;
  }
  const now = state.own[state.own.length - 1];
  state.own.push(stepCar(now, pedal(), state.mountain));
  const steps = state.own.length - 1;
  const end = state.own[steps].atFlag ? ", at the flag" : steps >= CAR.timeLimit ? ", out of time" : " so far";
  const other = state.path[state.path.length - 1].atFlag ? "" : ", out of time";
  element("car-state").textContent = describe("Your car: ", state.own);
  element("drive-state").textContent =
    `You (pink): return ${show(-steps, 0)}${end}. ` +
    `The network (grey), from the same start: ${show(1 - state.path.length, 0)}${other}.`;
  drawValley();
  drawPlane();
}

function moveShownCar() {
  if (state.own) {
    moveOwnCar();
  } else {
    moveCar();
  }
}

function startDriving() {
  const start = { position: state.start, velocity: 0, atFlag: false };
  state.path = state.whole = playEpisode(network(), start, state.mountain);
  state.own = [start];
  setSliding(false);
  element("drive").textContent = "Again";
  element("drive-state").textContent = "Go!";
  setPlaying(true);
  drawValley();
  drawPlane();
}

// The action that the reader chooses: that of the key or button held last.
function pedal() {
  return [...state.pedals.values()].at(-1) ?? 1;
}

function showPedals() {
  element("left").setAttribute("aria-pressed", pedal() === 0);
  element("right").setAttribute("aria-pressed", pedal() === 2);
}

function press(name, action) {
  state.pedals.set(name, action);
  if (!state.own || isOver(state.own)) {
    startDriving();
  }
  showPedals();
}

function release(name) {
  state.pedals.delete(name);
  showPedals();
}

// ---------------------------------------------------------------------------------------------
// One update

function addRow(words, number) {
  const row = element("update").tBodies[0].insertRow();
  row.insertCell().textContent = words;
  row.insertCell().textContent = number;
}

// A whole number as an exponent.
function raised(number) {
  return String(number).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
}

// What the parts of a target are called: of one step, or of several.
function targetWords(steps, gamma) {
  if (steps === 1) {
    return {
      real: "one reward that is",
      rewards: "reward r",
      next: "next state s′",
      target: "target r",
      factor: gamma,
      flag: "The last step",
      late: "Time is up",
    };
  }
  return {
    real: `${steps} rewards that are`,
    rewards: `sum R of ${steps} rewards, discounted`,
    next: `state s′, ${steps} greedy steps later`,
    target: "target R",
    factor: `${gamma}${raised(steps)}`,
    flag: `The last ${steps} steps`,
    late: `Time is up in ${steps} steps`,
  };
}

// At the end of an episode, the update is that of its last step.
function showUpdate() {
  const { gamma, nSteps } = state.run;
  const last = state.whole.length - 1;
  const now = Math.min(state.path.length, last) - 1;
  const then = Math.min(now + nSteps, last);
  const car = state.whole[now];
  const values = qValues(network(), car);
  const action = argmax(values);
  const longest = -Math.min(...values, lowestValue());
  element("bars").replaceChildren(
    ...Array.from(values, (value, n) => {
      const bar = document.createElement("div");
      bar.className = n === action ? "bar chosen" : "bar";
      const [name, track, fill, number] = ["span", "div", "span", "span"].map((tag) =>
        document.createElement(tag),
      );
      name.textContent = `Q(s, ${ACTIONS[n].replace("push ", "").replace("no push", "none")})`;
      fill.style.width = `${clip((100 * -value) / longest, 0, 100)}%`;
      track.append(fill);
      number.textContent = show(value);
      bar.append(name, track, number);
      return bar;
    }),
  );
  element("update").tBodies[0].replaceChildren();
  const steps = then - now;
  const words = targetWords(steps, gamma);
  const next = state.whole[then];
  const isEnd = then === last;
  const rewards = worth(steps, gamma);
  const nextBest = Math.max(...qValues(network(), next));
  const target = isEnd ? rewards : rewards + gamma ** steps * nextBest;
  element("real").textContent = words.real;
  addRow("state s: position, velocity", `${show(car.position)}, ${show(car.velocity, 3)}`);
  addRow("action a, with the highest Q-value", ACTIONS[action]);
  addRow(words.rewards, show(rewards, steps === 1 ? 0 : 2));
  addRow(words.next, `${show(next.position)}, ${show(next.velocity, 3)}`);
  addRow("max Q(s′, a′), from the target network", isEnd ? "0: the end" : show(nextBest));
  addRow(isEnd ? words.target : `${words.target} + ${words.factor} · max Q(s′, a′)`, show(target));
  addRow("error Q(s, a) − target", show(values[action] - target));
  element("update-note").textContent = next.atFlag
    ? `${words.flag} of an episode: nothing comes after the flag.`
    : isEnd
      ? `${words.late}. The network learns this as an end, too, although the car is not at the flag.`
      : "The target network is a copy of the network, renewed every " +
        `${state.run.targetUpdateEvery.toLocaleString("en")} training steps. Here, it is up to date.`;
}

// ---------------------------------------------------------------------------------------------
// The curves

const PLOTS = [ // place of the upper edge, ends of the axis, what of an evaluation it shows, title
  { top: 14, low: -200, high: -80, shows: "averageReturn", title: "average return (episode_return_avg)" },
  { top: 104, low: -70, high: 0, shows: "maxQValue", title: "highest Q-value (avg_max_q_value)" },
];
const [LEFT, RIGHT, TALL, BOTTOM] = [44, 350, 68, 186];
const RUN_COLOURS = ["#1f4e8c", "#b01c1c", "#00696b", "#7a2a8f"];

function svg(tag, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  node.textContent = text;
  element("curves").append(node);
}

// Draws a line through points, pairs of coordinates, of which null is a gap.
function drawCurve(points, attributes) {
  const isKnown = (n) => n >= 0 && n < points.length && points[n] !== null;
  const steps = points.map((point, n) => point && `${isKnown(n - 1) ? "L" : "M"}${point}`);
  svg("path", { d: steps.filter((step) => step).join(" "), fill: "none", ...attributes });
  points.forEach((point, n) => {
    if (point && !isKnown(n - 1) && !isKnown(n + 1)) { // a line of one point would not be seen
      svg("circle", { cx: point[0], cy: point[1], r: 2, ...attributes });
    }
  });
}

function drawCurves() {
  element("curves").replaceChildren();
  const lastStep = Math.max(...data.runs.map((run) => run.evaluations.at(-1).step));
  const x = (step) => LEFT + (step / lastStep) * (RIGHT - LEFT);
  for (const plot of PLOTS) {
    const all = data.runs
      .flatMap((run) => run.evaluations.map((one) => one[plot.shows]))
      .filter((value) => value !== null);
    const low = Math.min(plot.low, ...all);
    const high = Math.max(plot.high, ...all);
    const y = (value) => plot.top + TALL * ((high - value) / (high - low));
    svg("text", { x: LEFT, y: plot.top - 4 }, plot.title);
    svg("rect", {
      x: LEFT, y: plot.top, width: RIGHT - LEFT, height: TALL, fill: "none", stroke: "#999",
    });
    for (const value of [high, (low + high) / 2, low]) {
      svg("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, show(value, 0));
    }
    data.runs.forEach((run, n) => {
      const isShown = run === state.run;
      const points = run.evaluations.map((one) =>
        one[plot.shows] === null ? null : [x(one.step), y(one[plot.shows])],
      );
      drawCurve(points, {
        stroke: RUN_COLOURS[n],
        "stroke-width": isShown ? 2.5 : 1,
        "stroke-dasharray": n % 2 ? "6 3" : "none",
        opacity: isShown ? 1 : 0.6,
      });
    });
    const step = state.run.snapshots[state.number].step;
    svg("line", {
      x1: x(step), x2: x(step), y1: plot.top, y2: plot.top + TALL, stroke: "#000", "stroke-width": 1.5,
    });
  }
  svg("text", { x: LEFT, y: BOTTOM }, "0");
  svg("text", { x: RIGHT, y: BOTTOM, "text-anchor": "end" }, `${lastStep.toLocaleString("en")} training steps`);
}

// ---------------------------------------------------------------------------------------------
// The run

// The last evaluation up to a step; undefined before the first.
function evaluationAt(step) {
  return state.run.evaluations.filter((one) => one.step <= step).at(-1);
}

// What an evaluation found, in words.
function describeEvaluation(evaluation) {
  if (!evaluation) {
    return "Not evaluated yet.";
  }
  const when = evaluation.step.toLocaleString("en");
  if (evaluation.averageReturn === null) {
    return `No average return at ${when}: no episode ended.`;
  }
  return `Average return at ${when}: ${show(evaluation.averageReturn, 1)}.`;
}

function showSnapshot() {
  const { step } = state.run.snapshots[state.number];
  element("snapshot").value = state.number;
  element("snapshot").setAttribute("aria-valuetext", `step ${step}`);
  const found = describeEvaluation(evaluationAt(step));
  element("moment").textContent = `After ${step.toLocaleString("en")} steps of training. ${found}`;
  putCar(state.path[0].position, state.path[0].velocity);
  colourPlane();
  drawCurves();
}

function chooseRun(run) {
  const { step } = state.run.snapshots[state.number];
  state.run = run;
  const steps = run.snapshots.map((snapshot) => snapshot.step);
  const nearest = steps.reduce(
    (best, other, n) => (Math.abs(other - step) < Math.abs(steps[best] - step) ? n : best), 0,
  );
  state.number = nearest;
  element("snapshot").max = run.snapshots.length - 1;
  element("gamma").min = Math.min(LOWEST_GAMMA, run.gamma);
  element("gamma").value = run.gamma;
  showGamma(run.gamma); // which the slider may have rounded
  showSnapshot();
}

function setPlaying(playing) {
  state.playing = playing;
  element("play-car").textContent = playing ? "Pause" : "Play";
}

function setSliding(sliding) {
  state.sliding = sliding;
  element("play-run").textContent = sliding ? "Pause the run" : "Play the run";
}

function showGamma(gamma) {
  const own = gamma === state.run.gamma ? " (as in training)" : "";
  element("gamma-value").textContent = `${gamma}${own}`;
  const body = element("worth").tBodies[0];
  body.replaceChildren();
  const rows = [
    ["steps to go", ...WORTH_STEPS],
    ["are worth", ...WORTH_STEPS.map((n) => show(worth(n, gamma), 1))],
  ];
  for (const [heading, ...cells] of rows) {
    const row = body.insertRow();
    row.insertCell().textContent = heading;
    cells.forEach((cell) => (row.insertCell().textContent = cell));
  }
}

// ---------------------------------------------------------------------------------------------
// What the reader does

function fillIn() {
  data.runs.forEach((run, n) => {
    const label = document.createElement("label");
    const choice = document.createElement("input");
    choice.type = "radio";
    choice.name = "run";
    choice.checked = n === 0;
    choice.addEventListener("change", () => chooseRun(run));
    const key = document.createElement("span");
    key.className = "key";
    key.style.borderColor = RUN_COLOURS[n];
    key.style.borderTopStyle = n % 2 ? "dashed" : "solid";
    label.append(choice, key, `${run.name}: ${run.title}`);
    element("runs").append(label);
  });
}

function listen() {
  const on = (id, event, action) => element(id).addEventListener(event, action);
  on("snapshot", "input", (event) => {
    setSliding(false);
    state.number = Number(event.target.value);
    showSnapshot();
  });
  on("play-run", "click", () => {
    if (!state.sliding && state.number === state.run.snapshots.length - 1) {
      state.number = 0;
      showSnapshot();
    }
    setSliding(!state.sliding);
  });
  on("play-car", "click", () => setPlaying(!state.playing));
  on("step-car", "click", () => {
    setPlaying(false);
    moveShownCar();
  });
  on("restart-car", "click", () => putCar(state.start));
  on("start", "input", (event) => {
    state.start = Number(event.target.value);
    putCar(state.start);
  });
  for (const choice of document.querySelectorAll("input[name=view]")) {
    choice.addEventListener("change", () => {
      state.view = choice.value;
      element("plane-hint").textContent = HINTS[state.view];
      drawLegend();
      colourPlane();
    });
  }
  for (const factor of ["gravity", "force"]) {
    on(factor, "input", (event) => {
      state.mountain[factor] = Number(event.target.value);
      const own = state.mountain[factor] === 1 ? " (as in training)" : "";
      element(`${factor}-value`).textContent = `${state.mountain[factor].toFixed(2)}${own}`;
      putCar(state.start);
    });
  }
  on("gamma", "input", (event) => showGamma(Number(event.target.value)));
  on("drive", "click", startDriving);
  listenToPedals();
  listenToPointers();
  new ResizeObserver(() => {
    drawValley();
    drawPlane();
  }).observe(element("plane"));
}

function listenToPedals() {
  const pressKey = (event, action) => {
    event.preventDefault();
    if (!event.repeat) { // a key that is held across the flag starts no other episode
      press(event.key, action);
    }
  };
  for (const [id, action] of [["left", 0], ["right", 2]]) {
    element(id).addEventListener("pointerdown", () => press(id, action));
    for (const event of ["pointerup", "pointerleave", "pointercancel"]) {
      element(id).addEventListener(event, () => release(id));
    }
    element(id).addEventListener("keydown", (event) => {
      if (event.key === " " || event.key === "Enter") {
        pressKey(event, action);
      }
    });
  }
  const keys = { ArrowLeft: 0, ArrowRight: 2 };
  const isDriving = (event) => state.pedals.has(event.key) || (state.own && !isOver(state.own));
  const isElsewhere = (event) =>
    ["INPUT", "SELECT", "CANVAS"].includes(event.target.tagName) && !isDriving(event);
  window.addEventListener("keydown", (event) => {
    if (event.key in keys && !isElsewhere(event)) {
      pressKey(event, keys[event.key]);
    }
  });
  window.addEventListener("keyup", (event) => release(event.key));
  window.addEventListener("blur", () => { // from then on, it isn't told what is released
    state.pedals.clear();
    showPedals();
  });
}

function listenToPointers() {
  const valley = element("valley");
  const plane = element("plane");
  const share = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const drag = (canvas, put) => {
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      state.held = true;
      put(...share(canvas, event));
    });
    for (const event of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(event, () => (state.held = false));
    }
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) {
        put(...share(canvas, event));
      }
    });
  };
  const putOnPlane = (position, velocity) => {
    setPlaying(false);
    putCar(
      clip(position, CAR.minPosition, CAR.goalPosition - 0.01),
      clip(velocity, -CAR.maxSpeed, CAR.maxSpeed),
    );
  };
  drag(valley, (x) => {
    state.start = clip(positionAt(x), -1.15, 0.45);
    element("start").value = state.start;
    putCar(state.start);
  });
  drag(plane, (x, y) => putOnPlane(positionAt(x), (0.5 - y) * 2 * CAR.maxSpeed));
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  plane.addEventListener("keydown", (event) => {
    if (event.key in directions) {
      event.preventDefault();
      const [right, up] = directions[event.key];
      putOnPlane(
        state.car.position + (right * (CAR.maxPosition - CAR.minPosition)) / PLANE_STEPS,
        state.car.velocity + (up * 2 * CAR.maxSpeed) / PLANE_STEPS,
      );
    }
  });
}

// ---------------------------------------------------------------------------------------------
// Time

let lastTime = null;
let carTime = 0; // milliseconds that the car is behind
let snapshotTime = 0; // milliseconds that the present snapshot has been shown

function tick(time) {
  const passed = lastTime === null ? 0 : Math.min(time - lastTime, 100);
  lastTime = time;
  if (state.playing && !state.held) {
    const pace = 1000 / STEPS_PER_SECOND / Number(element("speed").value);
    for (carTime += passed; carTime >= pace; carTime -= pace) {
      moveShownCar();
    }
  }
  if (state.sliding) {
    snapshotTime += passed;
    if (snapshotTime >= SNAPSHOT_PACE) {
      snapshotTime = 0;
      const last = state.run.snapshots.length - 1;
      state.number = Math.min(state.number + 1, last); // the other run may be at its end
      if (state.number === last) {
        setSliding(false);
      }
      showSnapshot();
    }
  }
  requestAnimationFrame(tick);
}

state.car = { position: state.start, velocity: 0, atFlag: false };
state.path = [state.car];
fillIn();
element("plane-hint").textContent = HINTS.value;
for (const factor of ["gravity", "force"]) {
  element(`${factor}-value`).textContent = "1.00 (as in training)";
}
drawLegend();
setPlaying(state.playing);
listen();
chooseRun(data.runs[0]);
requestAnimationFrame(tick);
