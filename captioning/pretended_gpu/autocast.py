"""Autocast on the pretended GPU, by PyTorch's lists for CUDA (aten/src/ATen/autocast_mode.h).

    register(library)       # library: a torch.library.Library('aten', 'IMPL')

Within torch.autocast('pretend', dtype) matrix products are computed in dtype, and in float32 what
needs its range. Recurrent layers compute in float16 whatever dtype is, as PyTorch has it for cuDNN.
Left out: binary_cross_entropy, which raises on CUDA, and torch.norm, which is in float32 there.
"""

import torch
from torch.utils._pytree import tree_leaves, tree_map

from captioning.pretended_gpu.fused import LAYERS
from captioning.pretended_gpu.tensors import NAME

LOWER_PRECISION = """
    _convolution _convolution.deprecated conv1d conv2d conv3d conv_tbc conv_transpose1d
    conv_transpose2d.input conv_transpose3d.input convolution prelu addmm addmv addr matmul einsum
    mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot lstm_cell gru_cell
    rnn_tanh_cell rnn_relu_cell scaled_dot_product_attention""".split()
FLOAT32 = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar
    pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm
    frobenius_norm.dim nuclear_norm nuclear_norm.dim cosine_similarity poisson_nll_loss
    cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss smooth_l1_loss
    huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss
    triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm
    logsumexp upsample_nearest2d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d
    _upsample_bicubic2d_aa""".split()
# These get dtype=float32 where the caller names none.
FLOAT32_RESULT = """
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm
    linalg_matrix_norm linalg_matrix_norm.str_ord sum sum.dim_IntList""".split()
# Their tensors get float32 where they differ.
PROMOTED = """
    addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add stack
    cat""".split()

_cache = {}    # {(id of a weight, with gradient?): (the weight, as it was cast)}, within autocast


def register(library):
    dispatch_key = 'AutocastPrivateUse1'
    for name in LOWER_PRECISION:
        library.impl(name, _in_dtype(name, lambda: torch.get_autocast_dtype(NAME)), dispatch_key)
    for operation in LAYERS:
        library.impl(operation, _in_dtype(operation, lambda: torch.float16), dispatch_key)
    for name in FLOAT32:
        library.impl(name, _in_dtype(name, lambda: torch.float32), dispatch_key)
    for name in FLOAT32_RESULT:
        library.impl(name, _with_float32_result(name), dispatch_key)
    for name in PROMOTED:
        library.impl(name, _promoted(name), dispatch_key)


def clear_cache():
    _cache.clear()


def _in_dtype(name, chosen_dtype):
    operation = _operation(name)

    def run(*args, **kwargs):
        dtype = chosen_dtype()
        args, kwargs = tree_map(lambda value: _cast(value, dtype), (args, kwargs))
        return _without_autocast(operation, args, kwargs)

    return run


def _with_float32_result(name):
    operation = _operation(name)
    names = [argument.name for argument in operation._schema.arguments]

    def run(*args, **kwargs):
        if _is_cast(args[0]):
            by_name = dict(zip(names, args, strict=False))    # dtype too, of softmax
            kwargs = {**by_name, **kwargs}
            args, kwargs['dtype'] = (), kwargs.get('dtype') or torch.float32
        return _without_autocast(operation, args, kwargs)

    return run


def _promoted(name):
    operation = _operation(name)

    def run(*args, **kwargs):
        dtypes = {value.dtype for value in tree_leaves((args, kwargs)) if _is_cast(value)}
        if len(dtypes) > 1:
            args, kwargs = tree_map(lambda value: _cast(value, torch.float32), (args, kwargs))
        return _without_autocast(operation, args, kwargs)

    return run


def _operation(name):
    """aten's operation of the name, such as 'softmax.int'."""
    if not isinstance(name, str):
        return name
    packet, _, overload = name.partition('.')
    return getattr(getattr(torch.ops.aten, packet), overload or 'default')


def _is_cast(value):
    """Does autocast change this argument? Numbers, integers and float64 stay."""
    is_tensor = isinstance(value, torch.Tensor) and value.device.type == NAME
    return is_tensor and value.is_floating_point() and value.dtype != torch.float64


def _cast(value, dtype):
    """An argument in dtype. A weight is cast once, until the last block of autocast ends."""
    if not _is_cast(value) or value.dtype == dtype:
        return value
    is_weight = value.requires_grad and value.is_leaf and not value._is_view()
    lowered = value.dtype == torch.float32 and dtype == torch.get_autocast_dtype(NAME)
    if not (is_weight and lowered and torch.is_autocast_cache_enabled()):
        return value.to(dtype)
    key = id(value), torch.is_grad_enabled()
    if key not in _cache:
        _cache[key] = value, value.to(dtype)
    return _cache[key][1]


def _without_autocast(operation, args, kwargs):
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    with torch._C._ExcludeDispatchKeyGuard(below):
        return operation(*args, **kwargs)
