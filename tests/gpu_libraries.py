"""Stand-ins for array libraries on a GPU, as far as a compiled model uses them.

Their arrays lie in the memory of whatever GPU the process has, real or emulated, and their work is
sent to a stream that is not CUDA's default one.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np

CUDA = 2
DEFAULT_STREAM = 0


class Device:
    """A GPU's memory and streams, through TVM's runtime."""

    def __init__(self, number=0):
        import tvm_ffi

        from gluonlstm import tvm_library
        from gluonlstm.cuda_library import load_cuda

        load_cuda(tvm_library.load_runtime())
        self.ffi, self.number = tvm_ffi, number
        self.handle = tvm_ffi.device(f"cuda:{number}")

    def function(self, name):
        return self.ffi.get_global_func(f"runtime.{name}")

    def empty(self, shape, dtype):
        allocate = self.function("TVMTensorAllocWithScope")
        return allocate(self.ffi.Shape(shape), self.ffi.dtype(dtype), self.handle, None)

    def tensor(self, array):
        """Return a TVM tensor on the GPU with the values of a NumPy array."""
        array = np.array(array, order="C")
        tensor = self.empty(array.shape, str(array.dtype))
        if array.size:
            self.function("TVMTensorCopyFromTo")(self.ffi.from_dlpack(array), tensor)
        self.wait(DEFAULT_STREAM)
        return tensor

    def numpy(self, tensor, stream=DEFAULT_STREAM):
        """Return the values of a TVM tensor, after all work on ``stream``."""
        array = np.empty(tensor.shape, str(tensor.dtype))
        self.wait(stream)
        if array.size:
            self.function("TVMTensorCopyFromTo")(tensor, self.ffi.from_dlpack(array))
        self.wait(DEFAULT_STREAM)
        return array

    def new_stream(self):
        return self.function("Device_StreamCreate")(self.handle)

    def wait(self, stream):
        self.function("Device_StreamSync")(self.handle, stream)


class ForeignArray:
    """An array of a library that only speaks DLPack."""

    def __init__(self, device, tensor):
        self.device, self.tensor = device, tensor
        self.shape, self.dtype = tuple(tensor.shape), np.dtype(str(tensor.dtype))
        self.streams = []  # on which it was asked to be ready

    def __dlpack_device__(self):
        return CUDA, self.device.number

    def __dlpack__(self, *, stream=None, **rest):
        self.streams.append(stream)
        return self.tensor.__dlpack__()

    @property
    def pointer(self):
        return self.tensor.data_ptr()

    def numpy(self, stream=DEFAULT_STREAM):
        return self.device.numpy(self.tensor, stream)


class CupyArray(ForeignArray):
    """An array of the stand-in for CuPy."""

    def copy(self, order="C"):
        assert order == "C"
        assert self.tensor.is_contiguous()
        copy = self.device.empty(self.shape, str(self.dtype))
        self.device.wait(CUPY.stream)
        self.device.function("TVMTensorCopyFromTo")(self.tensor, copy)
        self.device.wait(DEFAULT_STREAM)
        return CupyArray(self.device, copy)

    def get(self):
        return self.numpy(CUPY.stream)


CupyArray.__module__ = "cupy"
CUPY = SimpleNamespace(stream=DEFAULT_STREAM)


class TorchTensor(ForeignArray):
    """A tensor of the stand-in for torch, on a GPU."""

    layout = "torch.strided"
    requires_grad = True

    def __init__(self, device, tensor):
        super().__init__(device, tensor)
        self.dtype = f"torch.{tensor.dtype}"
        self.gpu, self.device = device, SimpleNamespace(type="cuda", index=device.number)

    def __dlpack_device__(self):
        return CUDA, self.gpu.number

    def dim(self):
        return len(self.shape)

    def detach(self):
        detached = TorchTensor(self.gpu, self.tensor)
        detached.requires_grad, detached.streams = False, self.streams
        return detached

    def __dlpack__(self, *, stream=None, **rest):
        if self.requires_grad:
            raise BufferError("requires grad")
        return super().__dlpack__(stream=stream)

    def cpu(self):
        return SimpleNamespace(numpy=lambda: self.numpy(TORCH.stream))

    def numpy(self, stream=DEFAULT_STREAM):
        return self.gpu.numpy(self.tensor, stream)


TORCH = SimpleNamespace(stream=DEFAULT_STREAM)


@contextmanager
def fake_torch(device, stream):
    """Let ``torch`` be a library whose current stream is ``stream``; yield that module."""
    module = ModuleType("torch")
    module.Tensor = TorchTensor
    rnn = SimpleNamespace(PackedSequence=type("PackedSequence", (tuple,), {}))
    module.nn = SimpleNamespace(utils=SimpleNamespace(rnn=rnn))
    module.float32 = "float32"

    def current(number):
        assert number == device.number
        return SimpleNamespace(cuda_stream=TORCH.stream)

    def empty(shape, *, dtype, device):
        assert device == f"cuda:{own.number}"
        tensor = TorchTensor(own, own.empty(shape, dtype))
        tensor.requires_grad = False
        return tensor

    own = device
    module.cuda = SimpleNamespace(current_stream=current)
    module.empty = empty
    module.tensor = lambda array: TorchTensor(device, device.tensor(array))
    with _installed(module, TORCH, stream):
        yield module


@contextmanager
def fake_cupy(device, stream):
    """Let ``cupy`` be a library whose current stream is ``stream``; yield that module."""
    module = ModuleType("cupy")
    module.ndarray = CupyArray

    @contextmanager
    def on_device(number):
        assert number == device.number
        yield

    def current():
        return SimpleNamespace(ptr=CUPY.stream)

    module.cuda = SimpleNamespace(Device=on_device, get_current_stream=current)
    module.empty = lambda shape, dtype: CupyArray(device, device.empty(shape, str(dtype)))
    module.asarray = lambda array: CupyArray(device, device.tensor(array))
    module.from_dlpack = lambda tensor: CupyArray(device, tensor)
    with _installed(module, CUPY, stream):
        yield module


@contextmanager
def _installed(module, state, stream):
    """Let a module be imported under its name, with a current stream."""
    name = module.__name__
    before, state.stream = sys.modules.get(name), stream
    sys.modules[name] = module
    try:
        yield
    finally:
        state.stream = DEFAULT_STREAM
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
