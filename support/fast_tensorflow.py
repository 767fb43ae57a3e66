"""TensorFlow for a small network on a CPU: starts without its messages, and calls without delay.

Import this module before TensorFlow or Keras. TensorFlow's C++ part reports on CUDA and the
processor before its own log level is in force, so standard error is put aside meanwhile.
"""

import contextlib
import functools
import operator
import os
import tempfile
import types
import warnings
from collections import Counter

import numpy as np

from support.errors import is_installed

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the CPU is enough
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # kernels that pay for large networks only


@contextlib.contextmanager
def quiet():
    """Puts standard error aside, C++ included; shows what it got if there is an exception."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(stderr, aside.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


with quiet():
    import keras
    import tensorflow as tf
    from absl import logging

keras.config.set_floatx("float32")  # whatever the user's own configuration of Keras says
logging.set_verbosity(logging.ERROR)  # Keras warns at each .h5 file that the format is an old one

PLAIN = (bool, int, float, str)
SYMBOLIC = (
    "{} is compiled, so its tensors have no values yet: use tf.where instead of if, and tf.print "
    "instead of print; or run with --eager to look inside."
)
MOST_GRAPHS = 16  # of a function, that are kept
MANY_GRAPHS = 10  # after which a function probably gets a new one at every call
WITHOUT_LINE = (
    "{} is compiled, so the line in it that fails isn't known; run with --eager to see it."
)
EAGER = (
    "Eager: print, breakpoint() and debuggers work in every function, and training takes "
    "about 60 times as long."
)


class Array:
    """Marks the place of an array in the arguments of a call: (Array, shape, dtype)."""


class Arrays:
    """Marks the place of several arrays: (Arrays, kind, shapes and dtypes).

    `kind` is a tuple of the keys of a dict; the class of a named tuple; None for a tuple or a list.
    """


class Constant:
    """Something else in the arguments of a call, which is the same only if it is the same object.

    Most objects are like that by themselves: environments and networks, for example.

    Args:
        value: one that has no hash, or may be equal to others.
    """

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __hash__(self):
        return id(self.value)

    def __eq__(self, other):
        return type(other) is Constant and other.value is self.value


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

    Arguments may be arrays; tuples, lists or dicts of arrays; and anything else (an environment, a
    network, a number), which becomes part of the graph, as the constants above the function do.
    Where one of these changes, or the shape of an array, a new graph is made, which takes a while.
    So hand over what changes at every step as an array: `np.float32(x)`. Results are NumPy arrays,
    in the structure that the function returns.

    Inside another compiled function it is an ordinary function of tensors. After
    `tf.config.run_functions_eagerly(True)`, which `--eager` calls, it runs line by line in Python,
    with tensors that have values; so you can look at them. Without this decorator, it does so, too,
    and returns tensors.
    """
    module = function.__globals__
    constants = operator.itemgetter(
        "__name__",
        *[name for name in module if name.isupper() and isinstance(module[name], PLAIN)],
    )
    graphs = Counter()

    @functools.lru_cache(maxsize=MOST_GRAPHS)
    def trace(template, keywords, values):
        objects = tuple([id(value_of(mark)) for mark in template if not isinstance(mark, tuple)])
        graphs[objects] += 1
        if graphs[objects] == MANY_GRAPHS:
            warnings.warn(
                f"{function.__name__} has been traced {MANY_GRAPHS} times, which is slow: a "
                "number, a constant or the shape of an array keeps changing. Hand over a number "
                "that changes as np.float32(number).",
                stacklevel=3,
            )
        graph = tf.function(
            lambda *arrays: apply(function, template, keywords, arrays), autograph=False
        ).get_concrete_function(*symbols(template))
        dtypes = [output.dtype for output in graph.outputs]
        return graph, graph.captured_inputs, dtypes, tf.is_tensor(graph.structured_outputs)

    @functools.wraps(function)
    def run_compiled(*args, **kwargs):
        if tf.inside_function() or Eager.is_inside:
            return function(*args, **kwargs)

        keywords = tuple(kwargs)
        template, arrays = take_arrays((*args, *kwargs.values()) if kwargs else args)
        try:
            if tf.config.functions_run_eagerly():
                return call_eagerly(function, template, keywords, arrays)
            graph, variables, dtypes, is_single = trace(template, keywords, constants(module))
        except Exception as error:
            if "ymbolic" in str(error):
                error.add_note(SYMBOLIC.format(function.__name__))
            raise error.with_traceback(without_libraries(error.__traceback__)) from error.__cause__
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
        numbers = iter(outputs if dtypes else ())
        return tf.nest.map_structure(
            lambda output: next(numbers).numpy() if tf.is_tensor(output) else output,
            graph.structured_outputs,
        )

    return run_compiled


class Eager:
    """While a compiled function runs line by line, those that it calls are a part of it."""

    is_inside = False


def call_eagerly(function, template, keywords, arrays):
    """Calls a function with tensors that have values; returns NumPy arrays."""
    Eager.is_inside = True
    try:
        result = apply(function, template, keywords, [tf.convert_to_tensor(a) for a in arrays])
    finally:
        Eager.is_inside = False
    return tf.nest.map_structure(
        lambda output: output.numpy() if tf.is_tensor(output) else output, result
    )


def take_arrays(values):
    """Parts the arguments of a call into what belongs to its graph and what is put into that.

    Args:
        values: tuple of arguments.

    Returns:
        (template, arrays): tuple of the arguments, with marks in the places of arrays; list of the
        arrays, in their order.
    """
    template = []
    arrays = []
    for value in values:
        if isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
            array = np.asarray(value)
            arrays.append(array)
            value = (Array, array.shape, array.dtype)
        elif isinstance(value, (tuple, list, dict)):
            value = take_members(value, arrays)
        else:
            value = constant(value)
        template.append(value)
    return tuple(template), arrays


def constant(value):
    """What stands for a value that becomes part of the graph: 1, 1.0 and True are not the same."""
    if isinstance(value, PLAIN):
        return type(value), value
    return value if type(value).__eq__ is object.__eq__ else Constant(value)


def take_members(value, arrays):
    """Appends the arrays in a tuple, list or dict to a list; returns what marks their place."""
    is_dict = isinstance(value, dict)
    members = value.values() if is_dict else value
    arrays_or_lists = (np.ndarray, np.generic, tf.Tensor, tuple, list)
    if not is_dict and not any(isinstance(member, arrays_or_lists) for member in members):
        return tuple, tuple([constant(member) for member in members])
    kind = tuple(value) if is_dict else type(value) if hasattr(value, "_fields") else None
    kinds = []
    for member in members:
        array = np.asarray(member)
        arrays.append(array)
        kinds.append((array.shape, array.dtype))
    return Arrays, kind, tuple(kinds)


def symbols(template):
    """`tf.TensorSpec`s for the arrays of a template, a list."""
    kinds = []
    for value in template:
        if is_mark(value, Array):
            kinds.append(value[1:])
        elif is_mark(value, Arrays):
            kinds.extend(value[2])
    return [tf.TensorSpec(shape, dtype) for shape, dtype in kinds]


def value_of(mark):
    """The value for which `constant` returned a mark."""
    if isinstance(mark, tuple):
        return mark[1]
    return mark.value if isinstance(mark, Constant) else mark


def is_mark(value, mark):
    """Whether a value in a template marks the place of an array, or of several."""
    return isinstance(value, tuple) and value[0] is mark


def apply(function, template, keywords, arrays):
    """Calls a function with arguments in which arrays are in the places marked for them."""
    arrays = iter(arrays)
    values = []
    for value in template:
        if is_mark(value, Array):
            value = next(arrays)
        elif is_mark(value, Arrays):
            _, kind, kinds = value
            value = tuple([next(arrays) for _ in kinds])
            if isinstance(kind, tuple):
                value = dict(zip(kind, value, strict=True))
            elif kind is not None:
                value = kind(*value)
        elif is_mark(value, tuple):
            value = tuple([value_of(member) for member in value[1]])
        else:
            value = value_of(value)
        values.append(value)
    positional = len(values) - len(keywords)
    return function(*values[:positional], **dict(zip(keywords, values[positional:], strict=True)))


def without_libraries(trace):
    """A traceback without the frames of installed libraries, apart from the last, and of this file.

    So what is wrong in a function of yours is not lost among fifty lines of TensorFlow's.
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
