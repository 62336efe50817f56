"""The model: the public interface, and properties that hold for any captioner."""

import math
from collections import OrderedDict
from pathlib import Path

import matplotlib
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torchvision.models import get_model, resnet50

import model
from captioning.decoding import greedy
from captioning.devices import fast_dtype
from captioning.photos import load_image
from captioning.transforms import make_transform
from model import AlignedLinear, DecoderRNN, EncoderCNN

V = 40    # words
# 'first' shares its code with 'every' and 'state', so these three are the ways through the decoder.
VARIANTS = [{'image': 'every', 'tied': True}, {'image': 'state', 'tied': False},
            {'image': 'attention', 'tied': False}]
ALL_VARIANTS = [{'image': image, 'tied': tied} for tied in (False, True)
                for image in ('every', 'first', 'state', 'attention')]
GRACE_HOPPER = Path(matplotlib.get_data_path()) / 'sample_data' / 'grace_hopper.jpg'


def name_of(variant):
    return variant['image'] + '-tied' * variant['tied']


each_variant = pytest.mark.parametrize('variant', VARIANTS, ids=name_of)
all_variants = pytest.mark.parametrize('variant', ALL_VARIANTS, ids=name_of)


def make_decoder(variant, **options):
    torch.manual_seed(1)
    sizes = {'embed_size': 24, 'hidden_size': 24, 'vocab_size': V}
    return DecoderRNN(**{**sizes, **variant, **options}).eval()


def make_features(variant, count=9, size=24):
    random = torch.Generator().manual_seed(2)
    shape = (count, 5, size) if variant['image'] == 'attention' else (count, size)
    return torch.randn(shape, generator=random) * 3


def one_by_one(features):
    """As `sample` takes them: (1, 1, E), or (1, P, E)."""
    return [one.view(1, -1, one.shape[-1]) for one in features]


def loss_of(decoder, features, captions):
    """Cross-entropy of the words after the start word."""
    scores = decoder(features, captions)[:, 1:]
    return F.cross_entropy(scores.flatten(0, 1), captions[:, 1:].flatten())


# ---- Encoder ----

def test_images_may_be_larger_than_those_that_the_cnn_was_trained_on():
    encoder = EncoderCNN(6, 'resnet18', None, grid=True, image_size=96)
    assert encoder.transform['size'] == 96
    assert encoder(torch.randn(2, 3, 96, 96)).shape == (2, 9, 6)
    for size in (-1, 31, 2049):
        with pytest.raises(ValueError, match=f'image_size={size}: expected 0, or from 32 to 2048'):
            EncoderCNN(6, 'resnet18', None, image_size=size)


@pytest.mark.parametrize(('name', 'size', 'channels', 'places', 'mean'), [
    ('resnet50', 224, 2048, 49, 0.485), ('resnet152', 224, 2048, 49, 0.485),
    ('vgg16', 224, 512, 49, 0.485), ('inception_v3', 299, 2048, 64, 0.5),
    ('convnext_tiny', 224, 768, 49, 0.485), ('googlenet', 224, 1024, 49, 0.5),
    ('mobilenet_v3_small', 224, 576, 49, 0.485), ('swin_t', 224, 768, 49, 0.485)])
def test_backbones_know_their_images_and_give_pooled_and_grid_features(
        name, size, channels, places, mean):
    pooled = EncoderCNN(6, name, None)
    assert (pooled.transform['size'], pooled.transform['mean'][0]) == (size, mean)
    grid = EncoderCNN(6, name, None, grid=True)
    grid.load_state_dict(pooled.state_dict())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        one, many = pooled.backbone(images), grid.backbone(images)
    assert one.shape == (2, channels) and many.shape == (2, places, channels)
    assert torch.allclose(many.mean(dim=1), one, atol=1e-4)
    assert pooled(images).shape == (2, 6) and grid(images).shape == (2, places, 6)
    grid(images).square().sum().backward()
    assert grid.embed[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in grid.backbone.parameters())


@pytest.mark.parametrize(('name', 'head'), [
    ('resnet50', 'avgpool'), ('inception_v3', 'avgpool'), ('vgg16', 'avgpool'),
    ('convnext_tiny', 'avgpool'), ('googlenet', 'avgpool'), ('densenet121', 'classifier')])
def test_the_trunk_is_what_torchvision_runs_before_its_head(name, head, tmp_path):
    options = {'init_weights': False} if name in ('inception_v3', 'googlenet') else {}
    network = get_model(name, weights=None, **options).eval()
    torch.save(network.state_dict(), tmp_path / 'weights.pt')
    encoder, seen = EncoderCNN(4, name, tmp_path / 'weights.pt', grid=True), []
    getattr(network, head).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, encoder.transform['size'], encoder.transform['size'])
    with torch.no_grad():
        network(images)
        grid, expected = encoder.backbone(images), seen[0]
    if expected.dim() == 2:    # after the pool
        assert torch.allclose(grid.mean(dim=1), expected, atol=1e-5)
    else:
        assert torch.allclose(grid, expected.flatten(2).transpose(1, 2), atol=1e-5)


def test_a_backbone_of_another_size_takes_its_own_weights_without_their_head(tmp_path):
    state = get_model('resnet18', num_classes=5).state_dict()
    torch.save(state, tmp_path / 'five.pt')
    encoder = EncoderCNN(4, 'resnet18', tmp_path / 'five.pt')
    assert torch.equal(encoder.backbone.conv1.weight, state['conv1.weight'])


def test_images_are_as_the_named_weights_want_them(monkeypatch):
    entries = torchvision.models.get_model_weights('vgg16')
    monkeypatch.setattr(    # instead of a download
        torchvision.models, 'get_model', lambda name, weights=None: torchvision.models.vgg16())
    assert EncoderCNN(4, 'vgg16', 'IMAGENET1K_V1').transform['std'][0] == 0.229
    transform = EncoderCNN(4, 'vgg16', 'IMAGENET1K_FEATURES').transform
    assert transform['std'][0] == 1 / 255 == entries.IMAGENET1K_FEATURES.transforms().std[0]


@pytest.mark.parametrize('shape', [(6, 4), (6, 3, 4), (1, 3, 4)])
def test_batch_norm_counts_every_place_of_every_image(shape):
    features, norm = torch.randn(shape) * 3 + 2, model.BatchNorm(4)
    rows = norm(features).flatten(0, -2)
    assert rows.mean(0).abs().max() < 1e-4
    assert (rows.std(0, unbiased=False) - 1).abs().max() < 1e-2
    before = norm.running_mean.clone()
    norm(torch.randn(1, 4))    # a single row has no statistics
    assert torch.equal(norm.running_mean, before)


def test_encoder_shapes_and_what_is_trained():
    encoder = EncoderCNN(7, backbone='resnet18', weights=None)
    assert encoder(torch.randn(3, 3, 224, 224)).shape == (3, 7)
    assert all(p.requires_grad for p in encoder.embed.parameters())
    assert not any(p.requires_grad for p in encoder.backbone.parameters())
    names = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert names and all(name.startswith('embed.') for name in names)


def test_backbone_does_not_drift_in_train_mode():
    encoder = EncoderCNN(7, backbone='resnet18', weights=None).train()
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    for _ in range(2):
        encoder(torch.randn(4, 3, 64, 64) + 5).sum().backward()
    assert all(p.grad is not None for p in encoder.embed.parameters())
    assert not encoder.backbone.training and encoder.training
    after = encoder.backbone.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())


def test_shipped_weights_halve_the_picture_in_the_first_convolution():
    encoder = EncoderCNN(4)
    for stage in (encoder.backbone.layer2, encoder.backbone.layer3, encoder.backbone.layer4):
        assert stage[0].conv1.stride == (2, 2) and stage[0].conv2.stride == (1, 1)
        assert stage[0].downsample[0].stride == (2, 2)


def test_shipped_weights_meet_the_statistics_of_their_training():
    """On photos, the variance before a batch-norm is near that of the training.

    With wrong strides it is not. This does not look at how the strides are set. Written with seven
    crops of one photo: mean |log of the ratio| over the first blocks of stages 3 and 4 is 0.04 with
    v1's strides, 0.18 with v1.5's.
    """
    photo = load_image(GRACE_HOPPER)
    transform = make_transform(**EncoderCNN(4).transform)
    corners = [(x, y) for x in (0, 200) for y in (0, 150, 300)]
    crops = [photo, *(photo.crop((x, y, x + 300, y + 300)) for x, y in corners)]
    batch = torch.stack([transform(crop) for crop in crops])

    def error(backbone):
        ratios = []

        def compare(norm, inputs, _):
            variance = inputs[0].var((0, 2, 3))
            ratios.append((variance / norm.running_var).log().mean().abs())

        layer3, layer4 = backbone.layer3, backbone.layer4
        for block in (layer3[0], layer3[1], layer3[2], layer4[0]):
            for norm in (block.bn1, block.bn2, block.bn3):
                norm.register_forward_hook(compare)
        with torch.no_grad():
            backbone.eval()(batch)
        return torch.stack(ratios).mean().item()

    ours, other = EncoderCNN(4).backbone, resnet50()
    other.fc = torch.nn.Identity()
    other.load_state_dict(ours.state_dict())
    # The same weights with torchvision's strides.
    other = torch.nn.Sequential(OrderedDict(other.named_children()))
    ours, other = error(ours), error(other)
    assert ours < 0.08 and ours < other / 2, (ours, other)


def test_a_file_without_the_mark_is_torchvisions_own_kind(tmp_path):
    torch.save(resnet50().state_dict(), tmp_path / 'plain.pt')
    encoder = EncoderCNN(4, weights=tmp_path / 'plain.pt')
    assert encoder.backbone.layer2[0].conv1.stride == (1, 1)


@pytest.mark.parametrize(('options', 'words'), [
    ({'weights': 'nowhere.pt'}, ['nowhere.pt', 'IMAGENET1K_V2']),
    ({'weights': 'IMAGENET1K_V9'}, ['IMAGENET1K_V9', 'IMAGENET1K_V2']),
    ({'backbone': 'resnet18'}, ['do not fit', 'resnet18', 'IMAGENET1K_V2']),
    ({'backbone': 'squeezenet1_1'}, ['do not fit', 'squeezenet1_1']),
    ({'backbone': 'resnet-50', 'weights': None}, ['resnet-50', "'resnet50'"]),
    ({'backbone': 'fcn_resnet50', 'weights': None}, ['fcn_resnet50', 'classifier']),
    ({'backbone': 'vit_b_16', 'weights': None}, ['vit_b_16', 'no map of features']),
])
def test_wrong_weights_are_named(options, words):
    with pytest.raises(ValueError) as caught:
        EncoderCNN(4, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize('content', [b'', b'junk', b'PK junk'])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    (tmp_path / 'junk.pt').write_bytes(content)
    with pytest.raises(ValueError, match='junk.pt'):
        EncoderCNN(4, weights=tmp_path / 'junk.pt')
    torch.save(torch.zeros(3), tmp_path / 'tensor.pt')
    with pytest.raises(ValueError, match='tensor.pt'):
        EncoderCNN(4, weights=tmp_path / 'tensor.pt')


def test_a_padded_layer_without_bias_computes_what_a_plain_one_does():
    layer = AlignedLinear(6, 10, bias=False).to('meta')
    assert layer(torch.empty(3, 6, device='meta')).shape == (3, 10)


def test_a_failed_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')    # nobody listens there
    with pytest.raises(OSError, match='ship with the repository'):
        EncoderCNN(4, weights='IMAGENET1K_V2')


# ---- Decoder: every way in which the image enters, with words tied and not ----

@all_variants
@pytest.mark.parametrize('layers', [1, 2])
def test_steps_give_the_scores_of_forward(variant, layers):
    decoder, features = make_decoder(variant, num_layers=layers), make_features(variant)
    captions = torch.randint(0, V, (9, 8))
    scores = decoder(features, captions)
    state = decoder.init_state(features)
    for t in range(7):
        stepped, state = decoder.step(captions[:, t], state)
        assert torch.allclose(stepped, scores[:, t + 1], atol=1e-5)
        assert all(len(part) == 9 for part in state)


@all_variants
def test_every_word_depends_on_the_image(variant):
    decoder, features = make_decoder(variant), make_features(variant)
    captions = torch.randint(3, V, (9, 8))
    scores, others = decoder(features, captions), decoder(features.roll(1, 0), captions)
    assert ((scores - others).abs().amax(dim=(0, 2)) > 1e-6).all()


# ---- Decoder: the three ways through it ----

@each_variant
def test_scores_have_the_shape_of_the_captions(variant):
    captions = torch.randint(0, V, (9, 11))
    scores = make_decoder(variant)(make_features(variant), captions)
    assert scores.shape == (9, 11, V) and scores.is_contiguous()
    scores.view(-1, V)    # as the course's loss does


@each_variant
def test_captions_of_the_start_word_alone(variant):
    features = make_features(variant)
    scores = make_decoder(variant)(features, torch.zeros(9, 1, dtype=torch.long))
    longer = make_decoder(variant)(features, torch.zeros(9, 2, dtype=torch.long))
    assert scores.shape == (9, 1, V) and torch.allclose(scores, longer[:, :1], atol=1e-6)


@each_variant
def test_first_loss_is_near_log_v(variant):
    decoder = make_decoder(variant, embed_size=64, hidden_size=64, vocab_size=1000)
    features, captions = make_features(variant, 32, 64) / 3, torch.randint(0, 1000, (32, 12))
    loss = loss_of(decoder, features, captions)
    assert abs(loss.item() - math.log(1000)) < 0.1


@each_variant
def test_a_word_sees_only_what_came_before(variant):
    decoder, features = make_decoder(variant), make_features(variant)
    captions = torch.randint(3, V, (9, 8))
    changed = captions.clone()
    changed[:, 5] = (changed[:, 5] + 1) % V
    before, after = decoder(features, captions), decoder(features, changed)
    assert torch.allclose(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@each_variant
def test_gradients_agree_with_finite_differences_in_float64(variant):
    decoder = make_decoder(variant, embed_size=8, hidden_size=8, vocab_size=7, num_layers=2)
    features = make_features(variant, 2, 8).double().requires_grad_()
    captions = torch.randint(0, 7, (2, 4))
    parameters = dict(decoder.double().named_parameters())

    def scores(features, *values):
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(decoder, named, (features, captions)).log_softmax(-1)

    values = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(scores, (features, *values), fast_mode=True)


@each_variant
@pytest.mark.filterwarnings('ignore:TF32')
def test_bfloat16_gradients_point_where_float64_ones_do(variant):
    captions, gradients = torch.randint(0, V, (9, 8)), []
    # oneDNN has no LSTM in bfloat16 for CPUs that lack it; PyTorch has one for each.
    onednn = fast_dtype('cpu') == torch.bfloat16
    for dtype in (torch.float64, torch.float32):
        decoder, features = make_decoder(variant).to(dtype), make_features(variant).to(dtype)
        in_bfloat16 = torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.float32)
        with torch.backends.mkldnn.flags(enabled=onednn), in_bfloat16:
            scores = decoder(features, captions)
        F.cross_entropy(scores.to(dtype).flatten(0, 1), captions.flatten()).backward()
        gradient = torch.cat([p.grad.flatten() for p in decoder.parameters()])
        gradients.append(gradient.double())
    assert F.cosine_similarity(*gradients, dim=0) > 0.999


@each_variant
@pytest.mark.parametrize('layers', [1, 2])
def test_a_batch_is_learned_by_heart(variant, layers):
    decoder = make_decoder(variant, num_layers=layers, embed_size=64, hidden_size=64)
    features = make_features(variant, 8, 64) / 3
    captions = torch.randint(3, V, (8, 7))
    captions[:, 0], captions[:, -1] = 0, 1
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for _ in range(200):
        loss = loss_of(decoder, features, captions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [caption.ids for caption in greedy(decoder.eval(), features)] == captions.tolist()


@each_variant
def test_sample_returns_plain_ints_from_start_to_end_the_same_each_time(variant):
    decoder, features = make_decoder(variant), make_features(variant)
    for one in one_by_one(features):
        ids = decoder.sample(one)
        assert type(ids) is list and all(type(i) is int and 0 <= i < V for i in ids)
        assert ids[0] == 0 and 1 not in ids[:-1]
        assert len(ids) <= 20 and (ids[-1] == 1 or len(ids) == 20)
        assert ids == decoder.sample(one)
    assert len(decoder.sample(one, max_len=5)) <= 5


@each_variant
def test_sample_is_the_same_with_dropout_in_train_mode(variant):
    decoder = make_decoder(variant, num_layers=2, dropout=0.5).train()
    one, *_ = one_by_one(make_features(variant))
    samples = {tuple(decoder.sample(one)) for _ in range(10)}
    assert len(samples) == 1 and decoder.training


def test_sample_starts_from_given_states():
    decoder, one = make_decoder({}), torch.randn(1, 1, 24) * 3
    zeros, ones = torch.zeros(1, 1, 24), torch.ones(1, 1, 24)
    assert decoder.sample(one, states=(zeros, zeros)) == decoder.sample(one)
    assert decoder.sample(one, states=(ones, 9 * ones)) != decoder.sample(one)


def test_special_ids_come_from_keywords():
    decoder, features = make_decoder({}, start_id=5, end_id=9), torch.randn(9, 24)
    decoder.linear.bias.data[9] = 100    # the end word always wins
    assert decoder.sample(features[:1].unsqueeze(1)) == [5, 9]
    assert [caption.ids for caption in greedy(decoder, features)] == [[5, 9]] * 9


def test_tied_words_have_one_vector_and_fewer_weights():
    plain, tied = (make_decoder({'tied': tied}) for tied in (False, True))
    assert tied.embedding.weight is tied.linear.weight
    count = [sum(p.numel() for p in decoder.parameters()) for decoder in (plain, tied)]
    assert count[0] - count[1] == V * 24


def test_attention_is_a_share_for_each_place_and_sees_what_it_looks_at():
    attention = model.Attention(8, 6, heads=2)
    features, hidden = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    places = attention.places(features)
    added, weights = attention(places, hidden)
    assert weights.shape == (2, 3, 5) and (weights > 0).all()
    assert torch.allclose(weights.sum(2), torch.ones(2, 3))
    query, looks, seen = attention.query(hidden), [], []
    for part in (slice(0, 4), slice(4, 8)):    # each head has its own share of the axes
        looked_at = features[..., part]
        similar = torch.einsum('bte,bpe->btp', query[..., part], looked_at) / 2
        looks.append(similar.softmax(dim=2))
        seen.append(torch.einsum('btp,bpe->bte', looks[-1], looked_at))
    assert torch.allclose(weights, (looks[0] + looks[1]) / 2, atol=1e-6)
    expected = hidden + attention.out(torch.cat(seen, dim=2))
    assert torch.allclose(added, expected, atol=1e-5)
    # It depends on what the LSTM has in mind.
    assert not torch.allclose(weights, attention(places, -hidden)[1])


@pytest.mark.parametrize(('options', 'words'), [
    ({'image': 'last'}, ["image='last'", "'attention'"]),
    ({'tied': True, 'embed_size': 8}, ['embed_size=8', 'tied']),
    ({'image': 'attention', 'embed_size': 12}, ['embed_size=12', '8 heads'])])
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(ValueError) as caught:
        make_decoder(options)
    assert all(word in str(caught.value) for word in words)


def test_default_weights_ship():
    assert model.DEFAULT_WEIGHTS.is_file() and model.DEFAULT_WEIGHTS.stat().st_size < 50e6


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_dropout_drops_its_share_keeps_the_mean_and_rests_in_eval_mode(share):
    dropout, ones = model.Dropout(share), torch.ones(200, 500, dtype=torch.bfloat16)
    dropped = dropout(ones)
    assert dropped.dtype == ones.dtype
    assert (dropped == 0).float().mean() == pytest.approx(share, abs=0.01)
    assert share == 1 or dropped.float().mean() == pytest.approx(1, abs=0.02)
    assert torch.isfinite(dropped).all() and torch.equal(dropout.eval()(ones), ones)
