"""What PyTorch asks of a device, answered for the pretended GPU.

    backend = Backend()
    backend.add_to_torch()      # once a process; then torch.get_device_module('pretend') is backend

Also what PyTorch's hook for Python does not reach, and what is patched therefore: pinned memory,
generators, modules that move between devices, and files with tensors of the device.
"""

import contextlib
import weakref
from types import SimpleNamespace

import torch
from torch import nn
from torch.optim import optimizer
from torch.utils import _foreach_utils, backend_registration

from captioning.pretended_gpu import autocast, fused
from captioning.pretended_gpu.counting import note
from captioning.pretended_gpu.tensors import (
    NAME,
    DeviceTensor,
    compute,
    device_generators,
    is_pinned,
)


class Backend:
    """The module torch.pretend: its functions are those of torch.cuda.

    bfloat16, capability, memory, broken: as in pretended_gpu.start. float64: does it have that?
    (Apple's GPUs do not.) rng_state: of the stream of random numbers.
    """

    bfloat16, capability, memory, broken = True, (9, 0), 80 * 2 ** 30, None
    float64 = True

    def __init__(self):
        self.rng_state = torch.Generator().get_state()
        self.libraries = []    # what they register ends with them

    def add_to_torch(self):
        """Name the device and register its operations. Errors are those of another PyTorch."""
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=self)
        torch._C._set_only_lift_cpu_tensors(True)    # torch.tensor(..., device) is a copy
        everything = torch.library.Library('_', 'IMPL')
        everything.fallback(lambda operation, *args, **kwargs: compute(operation, args, kwargs),
                            'PrivateUse1')
        everything.fallback(torch.library.fallthrough_kernel, 'AutocastPrivateUse1')
        operations = torch.library.Library('aten', 'IMPL')
        fused.register(operations)
        autocast.register(operations)
        self.libraries = [everything, operations]
        _patch_torch(self)

    # ---- The device ----

    def is_available(self):
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self):
        return False

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def set_device(self, device):
        pass

    def synchronize(self, device=None):
        note('waited', 'synchronize')

    def get_device_name(self, device=None):
        return 'pretended GPU'

    def get_device_capability(self, device=None):
        return self.capability

    def get_device_properties(self, device=None):
        major, minor = self.capability
        return SimpleNamespace(name=self.get_device_name(), total_memory=self.memory,
                               major=major, minor=minor)

    def is_bf16_supported(self, including_emulation=True):
        return self.bfloat16 or including_emulation

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]    # a T4 emulates the second

    # ---- Memory, of which all is always free ----

    def mem_get_info(self, device=None):
        return self.memory, self.memory

    def memory_allocated(self, device=None):
        return 0

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated

    def empty_cache(self):
        pass

    def reset_peak_memory_stats(self, device=None):
        pass

    # ---- Random numbers ----

    def manual_seed(self, seed):
        self.rng_state = torch.Generator().manual_seed(int(seed)).get_state()

    manual_seed_all = manual_seed

    def get_rng_state(self, device=None):
        return self.rng_state.clone()

    def set_rng_state(self, new_state, device=None):
        self.rng_state = new_state.clone()

    @contextlib.contextmanager
    def random_numbers(self):
        """Within the block PyTorch's stream of random numbers is the device's."""
        of_processor = torch.get_rng_state()
        torch.set_rng_state(self.rng_state)
        try:
            yield
        finally:
            self.rng_state = torch.get_rng_state()
            torch.set_rng_state(of_processor)


# ---- What the hook does not reach ----

def _patch_torch(backend):
    torch.Generator = Generator
    torch.clear_autocast_cache = autocast.clear_cache
    torch.Tensor.pin_memory, torch.Tensor.is_pinned = _pin_memory, _is_pinned
    nn.Module._apply = _moving(nn.Module._apply)
    torch.serialization.register_package(5, _place, _refuse_place)
    # Optimizers and clip_grad_norm_ take many tensors in one operation, if they know their type.
    for types in (_foreach_utils._foreach_supported_types, optimizer._foreach_supported_types):
        types.append(DeviceTensor)
    torch.accelerator.synchronize = backend.synchronize
    torch.accelerator.empty_cache = backend.empty_cache
    torch.accelerator.get_memory_info = backend.mem_get_info
    torch.accelerator.memory_allocated = backend.memory_allocated
    torch.accelerator.max_memory_allocated = backend.max_memory_allocated


class _AnyGenerator(type(torch._C.Generator)):
    """isinstance(generator, torch.Generator) holds for those that were made before."""

    def __instancecheck__(cls, instance):
        return isinstance(instance, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """torch.Generator, which can also be of the pretended GPU."""

    def __new__(cls, device='cpu'):
        on_device = torch.device(device).type == NAME
        generator = super().__new__(cls, 'cpu' if on_device else device)
        generator.on_device = on_device
        if on_device:
            number = generator._cdata    # all that an operation keeps of it
            device_generators.add(number)
            weakref.finalize(generator, device_generators.discard, number)
        return generator

    def __init__(self, device='cpu'):
        super().__init__()

    @property
    def device(self):
        return torch.device(NAME, 0) if self.on_device else super().device


def _pin_memory(tensor, device=None):
    """Tensor.pin_memory, of which nothing but a mark is left."""
    if isinstance(tensor, DeviceTensor):
        raise RuntimeError(f"cannot pin '{NAME}' tensor only dense CPU tensors can be pinned")
    if is_pinned(tensor):
        return tensor
    pinned = tensor.clone(memory_format=torch.contiguous_format)
    pinned.untyped_storage().pinned = True
    return pinned


def _is_pinned(tensor, device=None):
    return not isinstance(tensor, DeviceTensor) and is_pinned(tensor)


def _moving(apply):
    """nn.Module._apply, by which modules move: their weights stay the same objects, as with CUDA.

    So tied weights stay tied, and optimizers keep them.
    """
    def moved(module, convert, recurse=True):
        if recurse:
            for child in module.children():
                child._apply(convert)
        weights = [weight for weight in module._parameters.values() if weight is not None]
        with torch.no_grad():
            converted = {id(weight): convert(weight) for weight in weights}
        crosses = any(weight.device.type != converted[id(weight)].device.type for weight in weights)

        def convert_once(tensor):
            known = converted.pop(id(tensor), None)
            return convert(tensor) if known is None else known

        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(swaps or crosses)
        try:
            return apply(module, convert_once, recurse=False)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)

    return moved


def _place(storage):
    """The name of a tensor's place, as torch.save writes it."""
    return f'{NAME}:0' if getattr(storage, 'of_pretended_gpu', False) else None


def _refuse_place(storage, place):
    """Read with the place that a file names, as on a machine where that device is not there."""
    if not place.startswith(NAME):
        return None
    raise RuntimeError(f"the tensor was saved on '{place}', which another machine may not have: "
                       "give torch.load map_location='cpu'.")
