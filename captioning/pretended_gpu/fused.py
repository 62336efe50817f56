"""Recurrent layers and attention of the pretended GPU: each is one operation, as on CUDA.

    register(library)       # library: a torch.library.Library('aten', 'IMPL')

They are computed on the processor as a whole. Recurrent layers have the rules of cuDNN: states are
contiguous, and gradients come in training mode alone.
"""

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from captioning.pretended_gpu.counting import note
from captioning.pretended_gpu.tensors import DeviceTensor, check_devices, computing

aten = torch.ops.aten

LAYERS = [getattr(getattr(aten, layer), inputs) for layer in ('lstm', 'gru', 'rnn_tanh', 'rnn_relu')
          for inputs in ('input', 'data')]
CELLS = [getattr(aten, f'{cell}_cell').default for cell in ('lstm', 'gru', 'rnn_tanh', 'rnn_relu')]
ATTENTION = aten.scaled_dot_product_attention.default


def register(library):
    for operation in LAYERS:
        library.impl(operation, _layer(operation), 'AutogradPrivateUse1')
    for operation in (*CELLS, ATTENTION):
        library.impl(operation, _fused(operation), 'AutogradPrivateUse1')


def _layer(operation):
    """A recurrent layer with cuDNN's rules."""
    names = [argument.name for argument in operation._schema.arguments]
    states, train = names.index('hx'), names.index('train')
    packed = 'batch_sizes' in names

    def run(*args):
        hx = args[states]
        for name, state in zip(('hx', 'cx'), hx if isinstance(hx, (list, tuple)) else [hx],
                               strict=False):
            if not state.is_contiguous():
                raise RuntimeError(f'rnn: {name} is not contiguous')
        return _run_fused(operation, args, {}, training=args[train], packed=packed)

    return run


def _fused(operation):
    def run(*args, **kwargs):
        return _run_fused(operation, args, kwargs)

    return run


def _run_fused(operation, args, kwargs, training=True, packed=False):
    leaves, structure = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    lengths = [args[1]] if packed else []    # of packed inputs, in the processor's memory
    check_devices(operation, [tensor for tensor in tensors
                              if not any(tensor is other for other in lengths)])
    results = _Fused.apply(operation, leaves, structure, training, *tensors)
    return results if len(results) > 1 else results[0]


class _Fused(torch.autograd.Function):
    """An operation that the processor computes and differentiates as a whole."""

    @staticmethod
    def forward(context, operation, leaves, structure, training, *tensors):
        context.operation, context.training = operation, training
        context.set_materialize_grads(False)
        needed = context.needs_input_grad[4:]
        held = [_detached(*pair) for pair in zip(tensors, needed, strict=True)]
        context.inputs = held
        by_id = {id(tensor): inner for tensor, inner in zip(tensors, held, strict=True)}
        args, kwargs = tree_unflatten([by_id.get(id(leaf), leaf) for leaf in leaves], structure)
        with computing(operation), torch.set_grad_enabled(any(needed)):
            results = operation(*args, **kwargs)
        results = results if isinstance(results, tuple) else (results,)
        note('operated', operation, results)
        context.results = results if any(needed) else None
        return tuple(DeviceTensor(result.detach()) for result in results)

    @staticmethod
    def backward(context, *gradients):
        if not context.training:
            raise RuntimeError('cudnn RNN backward can only be called in training mode')
        inputs = [tensor for tensor in context.inputs if tensor.requires_grad]
        results, given = zip(*((result, gradient.held) for result, gradient
                               in zip(context.results, gradients, strict=True)
                               if gradient is not None), strict=True)
        with computing(context.operation):
            of_inputs = iter(torch.autograd.grad(results, inputs, given, retain_graph=True,
                                                 allow_unused=True))
        note('operated', f'{context.operation} backward', given)
        ordered = [next(of_inputs) if tensor.requires_grad else None for tensor in context.inputs]
        wrapped = tree_map(lambda gradient: gradient if gradient is None
                           else DeviceTensor(gradient), ordered)
        return None, None, None, None, *wrapped


def _detached(tensor, needs_gradient):
    """What a tensor holds, as a leaf of the processor's autograd."""
    held = tensor.held if isinstance(tensor, DeviceTensor) else tensor
    return held.detach().requires_grad_(needs_gradient)
