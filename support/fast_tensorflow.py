"""TensorFlow for a small network on a CPU: starts without its messages, and calls without delay.

Import this module before TensorFlow or Keras. TensorFlow's C++ part reports on CUDA and the
processor before its own log level is in force, so standard error is put aside meanwhile.
"""

import functools
import os

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the CPU is enough
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # kernels that pay for large networks only

_stderr = os.dup(2)
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)
try:
    import keras
    import tensorflow as tf
    from absl import logging
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_nowhere)

keras.config.set_floatx("float32")  # whatever the reader's own configuration of Keras says
logging.set_verbosity(logging.ERROR)  # Keras warns at each .h5 file that the format is an old one


def compiled(function):
    """Makes `function(env, *models, arrays, **numbers)` one TensorFlow operation.

    For a network this small, `model.fit` and `model.predict` spend a hundred times longer on
    preparing their work than on the work. Here the function is traced to a graph once for its
    models, and every call then runs that graph: the same mathematics, without the preparation.
    """

    @functools.lru_cache(maxsize=16)
    def trace(specs, packed, *env_and_models, **numbers):
        inputs = [tf.TensorSpec(shape, dtype) for shape, dtype in specs]
        graph = tf.function(
            lambda *arrays: function(*env_and_models, arrays if packed else arrays[0], **numbers)
        ).get_concrete_function(*inputs)
        return graph, graph.captured_inputs, [output.dtype for output in graph.outputs]

    @functools.wraps(function)
    def call(*args, **numbers):
        if tf.inside_function():  # part of another compiled function
            return function(*args, **numbers)
        *env_and_models, arrays = args
        packed = isinstance(arrays, tuple)
        arrays = [np.asarray(array) for array in (arrays if packed else (arrays,))]
        specs = tuple((array.shape, array.dtype) for array in arrays)
        graph, variables, dtypes = trace(specs, packed, *env_and_models, **numbers)
        # Calling `graph` itself would check its arguments in Python and run in another thread,
        # 0.4 ms a call; as the single operation that it is, it runs here and now.
        outputs = tf.raw_ops.StatefulPartitionedCall(
            args=[*arrays, *variables], Tout=dtypes, f=graph
        )
        return outputs[0].numpy()

    return call
