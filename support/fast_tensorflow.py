"""TensorFlow for a small network on a CPU: starts without messages, and is called without delay.

Import this module before TensorFlow or Keras. TensorFlow's C++ part reports on CUDA and the
processor before its own log level takes effect, so standard error is redirected meanwhile.
"""

import contextlib
import functools
import gc
import inspect
import operator
import os
import subprocess
import sys
import types
import warnings
from collections import Counter

import numpy as np

from support.errors import is_installed

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the CPU is quicker; without this line, a GPU is used
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # kernels that pay off for large networks only
# An environment may open a window, whose OpenGL would crash where its LLVM meets TensorFlow's.
os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
if os.path.expanduser("~") == "~":  # there is no home, and TensorFlow would make a folder "~" here
    os.environ.setdefault("KERAS_HOME", os.devnull)

FINE = b"fine"
KEEP = f"""
import sys
said = sys.stdin.buffer.read()
if not said.endswith({FINE}):
    sys.stderr.buffer.write(said)
"""


@contextlib.contextmanager
def quiet():
    """Redirects standard error, C++ included; shows what it received if something fails.

    Another process receives it, because TensorFlow may end this one: where the processor lacks
    instructions that it needs, for instance.
    """
    stderr = os.dup(2)
    command = [sys.executable, "-IS", "-c", KEEP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as keeper:
        os.dup2(keeper.stdin.fileno(), 2)
        try:
            yield
            os.write(2, FINE)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def uncollected():
    """Keeps garbage collection away from what is imported, during the import and ever after.

    TensorFlow consists of 600,000 objects. To look through them all takes 0.3 s, and would happen
    several times in the import, and again when the program ends.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


with quiet(), uncollected():
    import keras
    import tensorflow as tf
    from absl import logging

keras.config.set_floatx("float32")  # also where the user's own configuration of Keras differs
logging.set_verbosity(logging.ERROR)  # Keras warns at each .h5 file that the format is an old one

ARRAYS = (np.ndarray, np.generic, tf.Tensor)
PLAIN = (bool, int, float, str)
MAX_GRAPHS = 16  # of a function, that are kept
TOO_MANY_GRAPHS = 10  # after which a function probably gets a new one at every call
SYMBOLIC = (
    "{} is compiled, so its tensors have no values yet: use tf.where instead of if, and tf.print "
    "instead of print; or run with --eager to look inside."
)
WITHOUT_LINE = (
    "{} is compiled, so the line in it that fails isn't known; run with --eager to see it."
)
TRACED_AGAIN = (
    "{} has been traced {} times, which is slow: a number, a constant or the shape of an array "
    "keeps changing. Pass a number that changes as np.float32(number)."
)
EAGER = (
    "Eager: print, breakpoint() and debuggers work in every function, and training takes "
    "about 60 times as long."
)


def run_eagerly():
    """Lets compiled functions run line by line in Python from now on; says so."""
    tf.config.run_functions_eagerly(True)
    warnings.filterwarnings("ignore", ".*does not apply to tf.data")  # harmless here
    print(EAGER)


def compiled(function):
    """Makes a function one TensorFlow operation, which is quick to call.

    For a network this small, `model.fit` and `model.predict` spend a hundred times longer on
    preparing their work than on the work. Here the function is traced once: it runs with symbols
    in place of its arrays, and the graph of what it does with them is kept. Every call then runs
    that graph: the same mathematics, without the preparation.

    Arguments may be arrays, and tuples or lists of arrays. Anything else (an environment, a
    network, a number) becomes part of the graph, as the constants above the function do, and those
    of the project's modules that it imports, such as `run.BATCH_SIZE` in a notebook. Where one of
    these changes, or the shape of an array, a new graph is made, which takes a while. So pass
    what changes at every step as an array: `np.float32(x)`. Results are NumPy arrays, in the
    structure that the function returns.

    Inside another compiled function it is an ordinary function of tensors. After
    `tf.config.run_functions_eagerly(True)`, which `--eager` calls, it runs line by line in Python,
    with tensors that have values; so you can look at them. Without this decorator, it does so, too,
    and returns tensors.
    """
    constants = [constants_of(names) for names in modules_of(function)]
    graphs = {}
    traced = Counter()  # how often, with the same environments and networks

    def trace(with_tensors, template, arrays):
        objects = tuple([id(value) for value in template if not isinstance(value, (tuple, *PLAIN))])
        traced[objects] += 1
        if traced[objects] == TOO_MANY_GRAPHS:
            message = TRACED_AGAIN.format(function.__name__, TOO_MANY_GRAPHS)
            warnings.warn(message, stacklevel=3)
        if len(graphs) == MAX_GRAPHS:
            graphs.pop(next(iter(graphs)))  # the oldest
        symbols = [tf.TensorSpec(array.shape, array.dtype) for array in arrays]
        graph = tf.function(with_tensors, autograph=False).get_concrete_function(*symbols)
        is_single = tf.is_tensor(graph.structured_outputs)
        return graph, graph.captured_inputs, [out.dtype for out in graph.outputs], is_single

    @functools.wraps(function)
    def run_compiled(*args, **kwargs):
        if tf.inside_function() or Eager.is_inside:
            return function(*args, **kwargs)

        def with_tensors(*tensors):
            tensors = iter(tensors)
            named = {name: put_tensors(value, tensors) for name, value in kwargs.items()}
            return function(*[put_tensors(value, tensors) for value in args], **named)

        arrays = []
        template = [take_arrays(value, arrays) for value in (*kwargs.values(), *args)]
        try:
            if tf.config.functions_run_eagerly():
                return call_eagerly(with_tensors, arrays)
            key = tuple(template), tuple(kwargs), *[read(names) for read, names in constants]
            if key not in graphs:
                graphs[key] = trace(with_tensors, template, arrays)
        except Exception as error:
            if "ymbolic" in str(error):
                error.add_note(SYMBOLIC.format(function.__name__))
            raise error.with_traceback(without_libraries(error.__traceback__)) from error.__cause__
        graph, variables, dtypes, is_single = graphs[key]
        # Calling `graph` itself would check its arguments in Python and run in another thread,
        # 0.4 ms a call; as the single operation that it is, it runs here and now.
        try:
            outputs = tf.raw_ops.StatefulPartitionedCall(
                args=[*arrays, *variables], Tout=dtypes, f=graph
            )
        except tf.errors.OpError as error:
            error.add_note(WITHOUT_LINE.format(function.__name__))
            raise
        if is_single:
            return outputs[0].numpy()
        outputs = iter(outputs)
        return to_numpy(graph.structured_outputs, lambda _: next(outputs))

    return run_compiled


def modules_of(function):
    """Where the constants of a function may be: its globals, and the project's modules in them."""
    found = [function.__globals__]
    for value in function.__globals__.values():
        filename = getattr(value, "__file__", None) if inspect.ismodule(value) else None
        if filename and not is_installed(filename):
            found.append(vars(value))
    return found


def constants_of(names):
    """A reader of the constants in the globals of a module: (function of the globals, globals)."""
    constants = [name for name in names if name.isupper() and isinstance(names[name], PLAIN)]
    return operator.itemgetter("__name__", *constants), names


def take_arrays(value, arrays):
    """Appends the arrays in an argument to a list; returns what stands for it in a graph's key."""
    if isinstance(value, ARRAYS):
        array = np.asarray(value)
        arrays.append(array)
        return array.shape, array.dtype
    if isinstance(value, (tuple, list)):
        members = [np.asarray(member) for member in value]
        arrays.extend(members)
        return tuple([(array.shape, array.dtype) for array in members])
    return value


def put_tensors(value, tensors):
    """An argument with the next ones of an iterator in place of the arrays in it."""
    if isinstance(value, ARRAYS):
        return next(tensors)
    if isinstance(value, (tuple, list)):
        return tuple([next(tensors) for _ in value])
    return value


def to_numpy(result, value_of=lambda tensor: tensor):
    """A result in which the value of each tensor is a NumPy array; its structure is kept."""
    return tf.nest.map_structure(
        lambda output: value_of(output).numpy() if tf.is_tensor(output) else output, result
    )


class Eager:
    """While a compiled function runs line by line, those that it calls are a part of it."""

    is_inside = False


def call_eagerly(function, arrays):
    """Calls a function of tensors with tensors that have values; returns NumPy arrays."""
    Eager.is_inside = True
    try:
        return to_numpy(function(*map(tf.convert_to_tensor, arrays)))
    finally:
        Eager.is_inside = False


def without_libraries(trace):
    """A traceback without the frames of installed libraries, apart from the last, and of this file.

    So a mistake in a function of yours is not lost among fifty lines of TensorFlow's.
    """
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    kept = [
        frame
        for frame in frames
        if not is_installed(frame.tb_frame.f_code.co_filename)
        and frame.tb_frame.f_code.co_filename != __file__
    ]
    if frames[-1] not in kept:
        kept.append(frames[-1])
    trimmed = None
    for frame in reversed(kept):
        trimmed = types.TracebackType(trimmed, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return trimmed
