"""Layers that a GPU computes otherwise: recurrent ones and word vectors, of any decoder.

    decoder = unsorted_embeddings(recurrent_out_of_autocast(decoder))
    with recurrent_in_float32(): ...        # as captions are written

Hooks do it, so a decoder knows nothing of it. On a CPU all is as PyTorch has it.
"""

import contextlib
import functools
import threading
import warnings

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from captioning.devices import is_cpu, training_dtype

_left = threading.local()    # contexts without autocast that recurrent layers are in


# ---- Which dtype ----

def recurrent_dtype(device):
    """The dtype of recurrent layers as they are trained: that of training, but float32 where cuDNN
    does not compute them in it, as before its version 9.13."""
    dtype = training_dtype(device)
    return dtype if is_cpu(device) or _recurrent_layers_take(dtype, device) else torch.float32


@functools.cache
def _recurrent_layers_take(dtype, device):
    """Without cuDNN PyTorch has kernels of its own for CUDA, which compute word by word."""
    try:
        with torch.autocast(device.type, enabled=False), torch.enable_grad(), _layout_as_it_is():
            layer = nn.LSTM(8, 8, device=device, dtype=dtype)
            output, _ = layer(torch.zeros(1, 1, 8, device=device, dtype=dtype))
            computed_by = output.grad_fn.name()
            output.sum().backward()
    except RuntimeError:
        return False
    return torch.get_device_module(device) is not torch.cuda or 'Cudnn' in computed_by


def _dtype_now(device):
    """That of training within it, else float32."""
    in_training = torch.is_autocast_enabled(device.type) and torch.is_grad_enabled()
    if not in_training or getattr(_left, 'in_float32', False):
        return torch.float32
    return recurrent_dtype(device)


@contextlib.contextmanager
def recurrent_in_float32():
    """Within the block recurrent layers are trained in float32, as they write captions."""
    before, _left.in_float32 = getattr(_left, 'in_float32', False), True
    try:
        yield
    finally:
        _left.in_float32 = before


# ---- Recurrent layers ----

def recurrent_out_of_autocast(network):
    """Keep the recurrent layers of a network out of autocast on a GPU -> the network.

    There PyTorch's autocast would compute them in float16, whichever dtype it is given, and
    gradients would vanish. They are trained in `recurrent_dtype`, and write captions in float32,
    which cuDNN multiplies in TF32. On a CPU they follow autocast.
    """
    for layer in network.modules():
        if isinstance(layer, nn.RNNBase) and _leave_autocast not in _hooks(layer):
            layer.register_forward_pre_hook(_leave_autocast, with_kwargs=True)
            layer.register_forward_hook(_return_to_autocast, always_call=True)
    return network


def has_dropout_between_layers(network, device):
    """Does a GPU draw dropout inside of recurrent layers of the network?"""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.RNNBase)]
    return not is_cpu(device) and any(layer.dropout and layer.num_layers > 1 for layer in layers)


def _hooks(layer):
    return layer._forward_pre_hooks.values()


def _leave_autocast(layer, positional, named):
    device, contexts = next(layer.parameters()).device, contextlib.ExitStack()
    _left.contexts = [*getattr(_left, 'contexts', []), contexts]    # closed whatever happens
    if not is_cpu(device):
        dtype = torch.float32 if _computes_its_weights(layer) else _dtype_now(device)
        contexts.enter_context(torch.autocast(device.type, enabled=False))
        contexts.enter_context(_weights_in(dtype, layer))
        positional, named = tree_map(functools.partial(_as, dtype), (positional, named))
    return positional, named


def _computes_its_weights(layer):
    is_plain = all(isinstance(weight, nn.Parameter) and weight is getattr(layer, name)
                   for weight, name in zip(layer._flat_weights, layer._flat_weights_names,
                                           strict=True))
    return not is_plain or parametrize.is_parametrized(layer)


def _return_to_autocast(layer, arguments, output):
    _left.contexts.pop().close()


@contextlib.contextmanager
def _weights_in(dtype, layer):
    """Within the block a recurrent layer computes with its weights in another dtype."""
    weights = layer._flat_weights
    layer._flat_weights = [weight.to(dtype) for weight in weights]
    try:
        with _layout_as_it_is():
            yield
    finally:
        layer._flat_weights = weights


@contextlib.contextmanager
def _layout_as_it_is():
    """Within the block nobody is warned that cuDNN copies weights into one piece of memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'RNN module weights are not part of single')
        yield


def _as(dtype, value):
    is_number = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if is_number else value


# ---- Word vectors ----

def unsorted_embeddings(network):
    """Let a GPU add up the gradients of word vectors in the order of the words -> the network.

    PyTorch sorts the words first, which takes longer than all else that it does for them. Under
    autocast the vectors are in the dtype of the recurrent layer that reads them. Layers that treat
    some words apart stay as they are.
    """
    for layer in network.modules():
        if type(layer) is nn.Embedding and _treats_words_alike(layer) and (
                _select_words not in layer._forward_hooks.values()):
            layer.register_forward_hook(_select_words, with_kwargs=True)
    return network


def _treats_words_alike(layer):
    return (layer.padding_idx is None and layer.max_norm is None
            and not layer.scale_grad_by_freq and not layer.sparse)


def _select_words(layer, positional, named, vectors):
    """The same vectors, by an operation whose gradient needs no sorting."""
    if vectors.is_cpu or not vectors.requires_grad:
        return vectors
    words, = (*positional, *named.values())
    vectors = layer.weight.index_select(0, words.flatten()).view_as(vectors)
    in_autocast = torch.is_autocast_enabled(vectors.device.type)
    return vectors.to(_dtype_now(vectors.device)) if in_autocast else vectors
