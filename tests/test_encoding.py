"""Encoding: photos handed over as bytes, and the copies of the backbone that are quicker."""

import copy
import sys
import zlib

import pytest
import torch
from conftest import draw_square
from torch import nn

from captioning import encoding
from captioning.augmentations import AUGMENTATIONS
from captioning.benchmark.made_up import made_up_vocabulary
from captioning.captioner import Captioner
from captioning.checkpoint import weights_hash
from captioning.encoding import (
    AugmentedPhotos,
    FrozenBackbone,
    cast,
    difference,
    folded,
    load_batches,
    photo_batches,
)
from captioning.onnx_network import OnnxNetwork
from captioning.photos import load_image
from captioning.transforms import make_transform, random_view, seeded
from model import DecoderRNN, EncoderCNN

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@pytest.fixture
def backbone(encoder):
    """A ResNet-18 whose batch-norms differ from channel to channel."""
    for module in encoder.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return encoder.backbone


@pytest.fixture
def images():
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def prepared(backbone, dtype, images):
    """What the first batch on a GPU makes."""
    with torch.no_grad():
        return FrozenBackbone(backbone, dtype)._prepared(images[:1])


@torch.no_grad()
def computed(function, images):
    return function(images).float()


# ---- Photos ----

@pytest.mark.parametrize('view', range(len(AUGMENTATIONS) + 2))
def test_batches_hold_what_the_transform_gives_to_the_bit(encoder, paths, view):
    transform = {**encoder.transform, 'view': view}
    paths[4].unlink()
    batches = list(photo_batches(paths, range(9), transform, 'cpu', batch_size=4))
    assert [rows for rows, _, _ in batches] == [[0, 1, 2, 3], [5, 6, 7], [8]]
    (row, message), = batches[1][2]
    assert row == 4 and '4.png' in message
    images = torch.cat([images for _, images, _ in batches])
    expected = [seeded([view, zlib.crc32(path.name.encode())], make_transform(**transform),
                       load_image(path)) for path in paths if path.exists()]
    assert images.dtype == torch.float32 and torch.equal(images, torch.stack(expected))


def test_augmented_photos_hold_what_the_transform_gives_to_the_bit(encoder, paths):
    photos = AugmentedPhotos(paths, encoder.transform, crop=0.7, seed=[3, 1])
    batches = load_batches(photos, [[2, 7], [4]], 2, encoder.transform, 'cpu')
    transform = make_transform(**encoder.transform, view=random_view(), crop=0.7)
    for (rows, images, _), expected_rows in zip(batches, [[2, 7], [4]], strict=True):
        assert rows == expected_rows
        expected = [seeded([3, 1, row], transform, load_image(paths[row])) for row in rows]
        assert torch.equal(images, torch.stack(expected))


def test_a_batch_without_a_readable_photo_has_errors_alone(encoder, tmp_path):
    rows, images, errors = next(photo_batches([tmp_path / 'no.png'], [0], encoder.transform, 'cpu'))
    assert rows == [] and images is None and errors[0][0] == 0


def test_photos_read_by_other_processes_are_the_same(encoder, paths, monkeypatch):
    draw_square(paths[1], 'white')
    alone = list(photo_batches(paths, range(9), encoder.transform, 'cpu', batch_size=4))
    monkeypatch.setattr('captioning.encoding.loading_workers', lambda *_: 1)
    shared = photo_batches(paths, range(9), encoder.transform, 'cpu', batch_size=4)
    for (rows, images, _), (expected_rows, expected, _) in zip(shared, alone, strict=True):
        assert rows == expected_rows and torch.equal(images, expected)


# ---- The copies that are quicker ----

def test_batch_norms_are_folded_and_the_backbone_stays_as_it_was(backbone, images):
    before, keys = weights_hash(backbone), list(backbone.state_dict())
    copied = folded(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    features, expected = computed(copied, images), computed(backbone, images)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    for dtype in ROUNDING:
        prepared(backbone, dtype, images)
    assert weights_hash(backbone) == before and list(backbone.state_dict()) == keys
    assert all(parameter.dtype == torch.float32 for parameter in backbone.parameters())


@pytest.mark.parametrize('dtype', list(ROUNDING))
def test_the_prepared_copy_gives_the_backbones_features(backbone, images, dtype):
    features = computed(prepared(backbone, dtype, images), images)
    assert difference(features, computed(backbone, images)) < ROUNDING[dtype]


def test_in_bfloat16_a_cpu_computes_the_copy_a_few_images_at_a_time(backbone, monkeypatch):
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    frozen, computed_at_once = FrozenBackbone(backbone, torch.bfloat16), []
    prepare = frozen._prepared

    def counted(image):
        compute = prepare(image)
        assert compute != frozen._under_autocast

        def compute_and_count(few):
            computed_at_once.append(len(few))
            return compute(few)
        return compute_and_count

    monkeypatch.setattr(frozen, '_prepared', counted)
    monkeypatch.setattr(encoding, 'FEW', 2)
    features = frozen.encode(images)
    assert computed_at_once == [2, 2, 1]
    assert difference(features, computed(backbone, images)) < ROUNDING[torch.bfloat16]


class Untraceable(nn.Module):
    """Does what depends on the numbers: PyTorch cannot trace it."""

    def forward(self, features):
        return features if features.sum() > 0 else -features


def test_a_backbone_that_cannot_be_traced_is_cast_as_it_is(backbone, images):
    backbone.append(Untraceable())
    with pytest.raises(Exception, match='control flow'):
        folded(backbone)
    frozen = FrozenBackbone(backbone, torch.bfloat16)
    with torch.no_grad():
        compute = frozen._prepared(images[:1])
    assert compute != frozen._under_autocast
    assert difference(computed(compute, images), computed(backbone, images)) < 0.1


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_copy_that_gives_other_features_is_not_used(backbone, images, dtype):
    forward = backbone.forward
    backbone.forward = lambda images: 2 * forward(images)    # tracing does not see it
    features = computed(prepared(backbone, dtype, images), images)
    assert difference(features, computed(backbone, images)) < 0.1


@pytest.fixture
def few_are_many(monkeypatch):
    monkeypatch.setattr(encoding, 'MANY', 3)


@pytest.fixture
def small_backbone():
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_var, 0.3, 3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten()).eval()


@pytest.mark.usefixtures('few_are_many')
def test_many_images_are_encoded_by_onnxruntime(small_backbone, images):
    few, many = (FrozenBackbone(small_backbone, torch.float32, count) for count in (2, 3))
    expected = few.encode(images)
    assert torch.allclose(many.encode(images), expected, rtol=1e-4,
                          atol=1e-5 * expected.abs().max())
    assert isinstance(many._compute, OnnxNetwork) and not isinstance(few._compute, OnnxNetwork)
    assert many.encode(images[:1]).shape == expected[:1].shape


@pytest.mark.usefixtures('few_are_many')
def test_onnxruntime_is_left_where_it_is_slower_or_cannot_be(small_backbone, images, monkeypatch):
    slower = FrozenBackbone(small_backbone, torch.bfloat16, 3)
    slower.encode(images)
    assert not isinstance(slower._compute, OnnxNetwork)
    small_backbone.append(Untraceable())
    unreadable = FrozenBackbone(small_backbone, torch.float32, 3)
    expected = FrozenBackbone(small_backbone, torch.float32).encode(images)
    assert torch.equal(unreadable.encode(images), expected)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    missing = FrozenBackbone(small_backbone[:-1], torch.float32, 3)
    assert torch.equal(missing.encode(images), expected.abs())


@pytest.mark.usefixtures('few_are_many')
def test_a_copy_by_onnxruntime_that_gives_other_features_is_not_used(small_backbone, images):
    forward = small_backbone.forward
    small_backbone.forward = lambda images: forward(images) * (1 + (images.shape[0] == 1))
    frozen = FrozenBackbone(small_backbone, torch.float32, 3)
    frozen.encode(images)
    assert frozen._compute == frozen._under_autocast


def test_batch_norms_that_are_left_keep_their_variances():
    """DenseNet's cannot be folded: a ReLU is between."""
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)).eval()
    network[0].running_var.fill_(1e-7)
    copied = cast(copy.deepcopy(network), torch.float16)
    assert copied[2].weight.dtype == torch.float16
    assert torch.equal(copied[0].running_var, network[0].running_var)


def test_a_batch_that_overflows_float16_is_computed_in_float32():
    large, small = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
    nn.init.constant_(large.weight, 1e3)
    nn.init.constant_(small.weight, 1e-3)
    backbone = nn.Sequential(large, small).eval()
    images = torch.stack([torch.ones(3, 8, 8), torch.full((3, 8, 8), 100.)])
    features = FrozenBackbone(backbone, torch.float16).encode(images)
    assert features.isfinite().all() and torch.allclose(features, computed(backbone, images))


def test_a_captioner_encodes_in_the_dtype_that_it_has_now(encoder, images):
    vocab = made_up_vocabulary(10)
    captioner = Captioner(encoder, DecoderRNN(4, 4, len(vocab)), vocab, encoder.transform, 'cpu')
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        captioner.dtype = dtype
        expected = FrozenBackbone(encoder.backbone, dtype).encode(images)
        assert torch.equal(captioner.encode(images), expected)


@pytest.mark.parametrize('name', ['densenet121', 'convnext_tiny'])
def test_other_backbones_are_prepared_too(name):
    encoder = EncoderCNN(4, name, None).eval()
    for module in encoder.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoder.backbone.train()(images)
    encoder.eval()
    frozen = FrozenBackbone(encoder.backbone, torch.bfloat16)
    with torch.no_grad():
        compute = frozen._prepared(images[:1])
    assert compute != frozen._under_autocast
    assert difference(computed(compute, images), computed(encoder.backbone, images)) < 0.2
