"""Tensors of the pretended GPU, and how an operation is computed on them.

    tensor = DeviceTensor(torch.zeros(3))       # tensor.device is torch.device('pretend', 0)
    total = compute(torch.ops.aten.add.Tensor, (tensor, tensor), {})

A DeviceTensor holds a tensor in the processor's memory, `held`. PyTorch's dispatcher brings every
operation on it here, below autograd, and `compute` runs it on what is held, after the checks that
CUDA would make.
"""

import contextlib
import functools

import torch

from captioning.pretended_gpu.counting import note

NAME = 'pretend'
aten = torch.ops.aten

NOT_COMPUTED = {
    aten._local_scalar_dense.default, aten._unsafe_view.default,
    aten._has_compatible_shallow_copy_type.default, aten.empty.memory_format,
    aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
    aten.new_empty_strided.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
            aten._index_put_impl_.default}
# The processor needs a result of these: a number, or how large a tensor becomes.
WAITS = {aten._local_scalar_dense.default, aten.equal.default, aten.allclose.default,
         aten.nonzero.default, aten.masked_select.default, aten.bincount.default,
         aten._unique.default, aten._unique2.default, aten.unique_dim.default,
         aten.unique_consecutive.default, aten.unique_dim_consecutive.default,
         aten.multinomial.default}
# Beside those that are pointwise, CUDA's operations that take a number of the processor's memory,
# a tensor (), with tensors of the device.
TAKE_NUMBERS = {aten.index_fill.int_Tensor, aten.index_fill_.int_Tensor, aten.masked_fill.Tensor,
                aten.masked_fill_.Tensor, aten._foreach_add.Tensor, aten._foreach_add_.Tensor,
                aten._foreach_mul.Tensor, aten._foreach_mul_.Tensor, aten._foreach_div.Tensor,
                aten._foreach_div_.Tensor}
# Lengths and batch sizes of packed sequences stay in the processor's memory.
PACKING = {aten._pack_padded_sequence.default, aten._pack_padded_sequence_backward.default}

device_generators = set()    # the `_cdata` of those generators that are on the device


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended GPU. held: the tensor in the processor's memory that computes."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=torch.device(NAME, 0))
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        torch.Tensor.data.__set__(self, other)
        self.held = other.held

    # What PyTorch does for its own tensors alone:

    def __repr__(self):
        return f'{self.held} on {self.device}'

    def __format__(self, spec):
        return self.item().__format__(spec) if self.ndim == 0 else object.__format__(self, spec)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use "
                        'Tensor.cpu() to copy the tensor to host memory first.')

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def __deepcopy__(self, memo):
        if not self.is_leaf:
            raise RuntimeError('Only Tensors created explicitly by the user (graph leaves) support '
                               'the deepcopy protocol at the moment.')
        copied = self.detach().clone()
        is_parameter = isinstance(self, torch.nn.Parameter)
        if is_parameter:
            copied = torch.nn.Parameter(copied)
        memo[id(self)] = copied.requires_grad_(self.requires_grad)
        if self.grad is not None and not is_parameter:
            copied.grad = self.grad.detach().clone()
        return copied

    def __reduce_ex__(self, protocol):
        held = self.held.detach()
        held.untyped_storage().of_pretended_gpu = True    # files name the place: backend.py
        return held.__reduce_ex__(protocol)


def compute(operation, args, kwargs):
    """The result of an operation of PyTorch's dispatcher on DeviceTensors, or that makes some.

    RuntimeError where CUDA would raise one that a CPU does not.
    """
    if operation is aten.copy_.default:
        return _copy(*args, **kwargs)
    stays = torch.device(kwargs.get('device') or NAME).type == NAME
    if operation is aten._to_copy.default and not stays:
        return _copy_to_processor(*args, **kwargs)
    leaves = _leaves((*args, *kwargs.values()))
    on_device = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, DeviceTensor)}
    if operation in INDEXING:
        _check_indices(operation, *args)
    elif operation not in PACKING:
        check_devices(operation, leaves)
    if 'device' in kwargs:
        kwargs = {**kwargs, 'device': torch.device('cpu'), 'pin_memory': None}
    with computing(operation, kwargs.get('generator')):
        held = {name: _mapped(_held, value) for name, value in kwargs.items()}
        result = operation(*_mapped(_held, args), **held)
    _note(operation, args, kwargs, result)
    if operation._schema.is_mutable:
        _follow_shapes(on_device.values())
    if not stays:
        return result
    if operation is aten._pack_padded_sequence.default:
        packed, batch_sizes = result
        return DeviceTensor(packed), batch_sizes
    return _mapped(lambda value: _on_device(value, on_device), result)


def check_devices(operation, leaves):
    """RuntimeError where an operation mixes devices. leaves: its arguments."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if _takes_numbers(operation):
        elsewhere = [tensor for tensor in elsewhere if tensor.ndim]
    if elsewhere and len(elsewhere) < len(tensors):
        shapes = [tuple(tensor.shape) for tensor in elsewhere]
        raise RuntimeError('Expected all tensors to be on the same device, but found at least two '
                           f'devices, {NAME}:0 and {elsewhere[0].device}! ({operation} has '
                           f'{shapes} there)')


@contextlib.contextmanager
def computing(operation, generator=None):
    """The block computes an operation: it raises where the device is broken, and draws random
    numbers from the device's stream.
    """
    backend = getattr(torch, NAME)
    if backend.broken and _is_computed(operation):
        raise RuntimeError(backend.broken)
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        yield
    elif generator is None:
        with backend.random_numbers():
            yield
    elif generator._cdata in device_generators:
        yield
    else:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found "
                           f"'{generator.device.type}'")


def is_pinned(tensor):
    """Is a tensor of the processor's memory there where the device reads it without a wait?"""
    return getattr(tensor.untyped_storage(), 'pinned', False)


# ---- Copies between the processor's memory and the device ----

def _copy(to, source, non_blocking=False):
    """`to.copy_(source)`, in either direction or on the device."""
    operation = aten.copy_.default
    if isinstance(to, DeviceTensor) and isinstance(source, DeviceTensor):
        with computing(operation):
            to.held.copy_(source.held)
        note('operated', operation, to)
    elif isinstance(to, DeviceTensor):
        to.held.copy_(source)
        note('copied', operation, to)
        as_it_is = source.dtype == to.dtype and source.is_contiguous()
        if not (non_blocking and as_it_is and is_pinned(source)):
            note('waited', operation, to)
    else:
        to.copy_(source.held)
        if not (non_blocking and is_pinned(to)):
            note('waited', operation, to)
    return to


def _copy_to_processor(source, non_blocking=False, **kwargs):
    """A copy in the processor's memory."""
    result = aten._to_copy.default(source.held, **kwargs)
    if non_blocking:
        result.untyped_storage().pinned = True
    else:
        note('waited', aten._to_copy.default, result)
    return result


# ---- The parts of `compute` ----

def _leaves(values):
    """What is in a tuple or list, and in those that are in it -> list."""
    leaves = []
    for value in values:
        if isinstance(value, (tuple, list)):
            leaves += _leaves(value)
        else:
            leaves.append(value)
    return leaves


def _mapped(function, value):
    """A value with `function` applied to its leaves; operations take and give no other trees."""
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(function, part) for part in value)
    return function(value)


def _held(value):
    return value.held if isinstance(value, DeviceTensor) else value


def _on_device(value, on_device):
    """A result as a DeviceTensor: that of the arguments which it is, or a new one."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.float64 and not getattr(torch, NAME).float64:
        raise TypeError('the device has no float64: use float32 instead.')
    known = on_device.get(id(value))
    return DeviceTensor(value) if known is None else known


def _check_indices(operation, tensor, indices, values=None, *rest):
    """What CUDA does about indices: those of the processor's memory are copied, masks are waits."""
    on_device = isinstance(tensor, DeviceTensor)
    indices = [index for index in indices if index is not None]
    check_devices(operation, [tensor] if on_device else [tensor, *indices])
    if values is not None and values.ndim:
        check_devices(operation, [tensor, values])
    for index in indices:
        if not isinstance(index, DeviceTensor):
            note('copied', operation, index)
            note('waited', operation, index)
        elif index.dtype in (torch.bool, torch.uint8) and (values is None or values.ndim):
            note('waited', operation, index)    # with one value it is a masked_fill


def _note(operation, args, kwargs, result):
    sizes_its_result = operation is aten.repeat_interleave.Tensor and not kwargs.get('output_size')
    if operation in WAITS or sizes_its_result:
        note('waited', operation, result)
    if _is_computed(operation):
        note('operated', operation, result)


def _follow_shapes(tensors):
    """The shapes of tensors after that of what they hold was changed in place."""
    for tensor in tensors:
        if tensor.shape != tensor.held.shape or tensor.stride() != tensor.held.stride():
            torch.Tensor.data.__set__(tensor, DeviceTensor(tensor.held))


@functools.cache
def _takes_numbers(operation):
    return torch.Tag.pointwise in operation.tags or operation in TAKE_NUMBERS


@functools.cache
def _is_computed(operation):
    """Does a GPU compute something, not only make memory or another view of it?"""
    return not (operation.is_view or operation in NOT_COMPUTED)
