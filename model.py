"""The model: a CNN turns an image into a vector, an LSTM turns the vector into a caption.

    encoder = EncoderCNN(embed_size=512)
    decoder = DecoderRNN(embed_size=512, hidden_size=512, vocab_size=len(vocab))
    scores = decoder(encoder(images), captions)         # training: (B, T, V)
    ids = decoder.sample(encoder(image).unsqueeze(1))   # inference: [start, words..., end]

Vinyals et al. 2015, Show and Tell: A Neural Image Caption Generator. Beam search, sampling and the
rest (captioning/decoding.py) need `init_state` and `step` alone. Every argument with a default is
also a setting of training, and a flag: `python -m scripts.train --help`.

Axes: B batch, T caption length, V vocabulary, E embedding, H hidden, C channels of the CNN,
P places of an image, L layers of the LSTM. Where the CNN's weights come from is at the end.
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torchvision
from torch import nn

DEFAULT_WEIGHTS = Path(__file__).resolve().parent / 'models' / 'resnet50_v1_imagenet.pt'


# ---- Encoder ----

class EncoderCNN(nn.Module):
    """Image -> vector, or a vector for each place: a frozen CNN and a trainable head.

    embed_size: of a word, and of the image as the LSTM sees it
    backbone: the CNN, a torchvision classifier such as resnet50, resnet152, vgg16
    weights: of the CNN: a file with a state dict, a torchvision weights name such as IMAGENET1K_V2,
        or None for random ones
    grid: a vector for each place of the image instead of one for the image
    image_size: side of the images in pixels; 0: that of the images that the CNN was trained on

    `backbone` stays in eval mode under .train(), so that its batch-norm statistics do not drift.
    `embed`, the head, ends with a batch-norm: pooled features are all positive and much alike, and
    what tells images apart is how they differ from their mean. `transform` says which images the
    CNN takes: size, mean, std. ValueError or OSError says what to do where weights cannot be had.
    """

    def __init__(self, embed_size, backbone='resnet50', weights=DEFAULT_WEIGHTS, grid=False,
                 image_size=0):
        super().__init__()
        if image_size and not 32 <= image_size <= 2048:
            raise ValueError(f'image_size={image_size}: expected 0, or from 32 to 2048 pixels.')
        self.backbone, feature_size, self.transform = load_backbone(backbone, weights, grid)
        self.transform['size'] = image_size or self.transform['size']
        self.backbone.requires_grad_(False)
        self.embed = nn.Sequential(
            nn.Linear(feature_size, embed_size, bias=False), BatchNorm(embed_size))
        self.train()

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images):
        features = self.backbone(images)    # (B, C), with a grid (B, P, C)
        return self.embed(features)         # (B, E), with a grid (B, P, E)


class BatchNorm(nn.BatchNorm1d):
    """Batch-norm of (B, E) or (B, P, E); of a single row by the running statistics."""

    def forward(self, features):
        rows = features.flatten(0, -2)
        if self.training and len(rows) == 1:
            rows = nn.functional.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias)
        else:
            rows = super().forward(rows)
        return rows.view_as(features)


# ---- Decoder ----

class DecoderRNN(nn.Module):
    """Vector -> caption: an LSTM that reads the image and the words so far, and scores the next.

    embed_size: of a word, and of the image as the LSTM sees it
    hidden_size: of the LSTM
    vocab_size: number of words
    num_layers: of the LSTM
    dropout: share of the LSTM's inputs and outputs that are dropped in training
    start_id: id of the word that begins a caption
    end_id: id of the word that ends a caption
    image: where the image enters the LSTM: 'first', as the first input (Vinyals et al. 2015);
        'every', as the first input and added to each word (par-inject, Tanti et al. 2018, Where to
        put the Image in an Image Caption Generator), since an LSTM that saw it once half forgets it
        before it needs a noun; 'state', as the initial state; 'attention', like 'every' with its
        mean, and the LSTM's output then looks at its places (Lu et al. 2017, Knowing When to Look)
    tied: a word is read and written by the same vector (Press and Wolf 2017, Using the Output
        Embedding to Improve Language Models), which needs embed_size == hidden_size

    With attention, features are (B, P, E), of an encoder with grid=True.
    """

    def __init__(self, embed_size, hidden_size, vocab_size, num_layers=1, dropout=0.0,
                 start_id=0, end_id=1, image='every', tied=False):
        super().__init__()
        if image not in ('every', 'first', 'state', 'attention'):
            raise ValueError(f"image='{image}': expected 'every', 'first', 'state' or 'attention'.")
        if tied and embed_size != hidden_size:
            raise ValueError(f'tied=True needs one size for both, but embed_size={embed_size}, '
                             f'hidden_size={hidden_size}.')
        self.start_id, self.end_id, self.image = start_id, end_id, image
        self.image_with_words = image in ('every', 'attention')
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.lstm = nn.LSTM(embed_size, hidden_size, num_layers, batch_first=True,
                            dropout=dropout if num_layers > 1 else 0.0)
        self.dropout = Dropout(dropout)
        self.linear = AlignedLinear(hidden_size, vocab_size)
        if tied:
            self.embedding.weight = self.linear.weight
        # The rows of a linear layer start small: scale them to the image's size.
        self.scale = embed_size ** 0.5 if tied else 1.0
        self.first_state, self.attention = None, NoAttention()
        if image == 'state':
            self.first_state = nn.Linear(embed_size, 2 * num_layers * hidden_size)
        if image == 'attention':
            self.attention = Attention(embed_size, hidden_size, dropout)

    def forward(self, features, captions, scored=None):
        """Scores of the next word at every position, teacher-forced.

        features: (B, E), with attention (B, P, E). captions: (B, T) ids, each
        [start, words..., end, padding]. Returns (B, T, V): position t scores captions[:, t] given
        the image and captions[:, :t]. scored: (W,) of the B * T positions, to score these alone ->
        (W, V), which saves training those of the padding.
        """
        image = self.dropout(self.attention.summary(features))              # (B, 1, E)
        words = self.dropout(self.scale * self.embedding(captions[:, :-1]))  # (B, T-1, E)
        hidden = self._read_caption(image, self._beside(words, image))      # (B, T, H)
        places = self.attention.places(features)
        hidden, _ = self.attention(places, hidden)
        hidden = self.dropout(hidden)
        if scored is not None:
            return self.linear(hidden.flatten(0, 1).index_select(0, scored))    # (W, V)
        return self.linear(hidden).contiguous()                             # (B, T, V)

    def init_state(self, features, state=None):
        """State before the first word, a tuple of tensors (B, ...): image, places, h, c.

        features: as in `forward`. state: (h, c) that the LSTM starts from, each (B, L, H); zeros by
        default.
        """
        image = self.attention.summary(features)                            # (B, 1, E)
        if self.first_state is None:
            _, state = self._read(image, state)
        elif state is None:
            state = self._state_from(image)
        return image, self.attention.places(features), *state

    def step(self, words, state):
        """Read one word each, words (B,), and score the next: (scores (B, V), state)."""
        image, places, *state = state
        words = self.scale * self.embedding(words).unsqueeze(1)             # (B, 1, E)
        hidden, state = self._read(self._beside(words, image), state)
        hidden, _ = self.attention(places, hidden)
        return self.linear(hidden.squeeze(1)), (image, places, *state)

    def _beside(self, words, image):
        """Words (B, T, E) as the LSTM reads them: with the image (B, 1, E) added, or alone."""
        return words + image if self.image_with_words else words

    def _read_caption(self, image, words):
        """Hidden states (B, T, H): after the image, and after each word (B, T-1, E)."""
        if self.first_state is None:
            hidden, _ = self._read(torch.cat([image, words], dim=1))        # in one go: quicker
            return hidden
        state = self._state_from(image)
        before_words = state[0][:, -1:]                                     # (B, 1, H)
        if not words.numel():                                               # captions (B, 1)
            return before_words
        hidden, _ = self._read(words, state)
        return torch.cat([before_words, hidden], dim=1)

    def _state_from(self, image):
        """The LSTM's initial state (h, c), each (B, L, H), from the image (B, 1, E)."""
        state = self.first_state(image.squeeze(1)).tanh()                   # (B, 2 * L * H)
        return state.view(len(image), 2, -1, self.lstm.hidden_size).unbind(dim=1)

    def _read(self, inputs, state=None):
        """inputs (B, T, E), state (h, c), each (B, L, H), or None -> hidden (B, T, H), state."""
        if state is not None:    # PyTorch wants (L, B, H)
            state = tuple(part.transpose(0, 1).contiguous() for part in state)
        hidden, state = self.lstm(inputs, state)
        return hidden, tuple(part.transpose(0, 1) for part in state)

    @torch.no_grad()
    def sample(self, features, states=None, max_len=20):
        """Greedy caption of one image. features: (1, 1, E), with attention (1, P, E).

        states: (h, c) that the LSTM starts from, each (L, 1, H). Returns at most max_len ints:
        [start, words..., end].
        """
        training = self.training
        self.eval()    # without dropout
        if self.image != 'attention':
            features = features.squeeze(1)
        states = states and [part.transpose(0, 1) for part in states]
        state, ids = self.init_state(features, states), [self.start_id]
        while len(ids) < max_len and ids[-1] != self.end_id:
            word = torch.tensor(ids[-1:], device=features.device)
            scores, state = self.step(word, state)
            ids.append(scores.argmax(dim=1).item())
        self.train(training)
        return ids


class AlignedLinear(nn.Linear):
    """nn.Linear that a GPU trains, faster so, with outputs added up to a multiple of 64."""

    def forward(self, x):
        missing = -self.out_features % 64
        if x.is_cpu or self.bias is None or not missing or not torch.is_grad_enabled():
            return super().forward(x)
        weight = nn.functional.pad(self.weight, (0, 0, 0, missing))
        bias = nn.functional.pad(self.bias, (0, missing), value=-torch.inf)
        whole = nn.functional.linear(x, weight, bias)
        scores = whole[..., :self.out_features]
        scores.whole = whole    # for the loss: to copy the scores out of it takes as long
        return scores


class Dropout(nn.Dropout):
    """nn.Dropout, which takes 17 % of a training step on a CPU; by torch.rand it takes 5 %."""

    def forward(self, x):
        if not (x.is_cpu and self.training and self.p):
            return super().forward(x)
        kept = torch.rand(x.shape, device=x.device) >= self.p
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return x * (kept * scale).to(x.dtype)


class Attention(nn.Module):
    """Where to look for the next word: each head gives every place of the image a weight.

    Scaled dot products (Vaswani et al. 2017, Attention Is All You Need) after the LSTM, not before
    it (Lu et al. 2017, Knowing When to Look), so that all words of a caption are computed at once.
    """

    def __init__(self, embed_size, hidden_size, dropout=0.0, heads=8):
        super().__init__()
        if embed_size % heads:
            raise ValueError(
                f'embed_size={embed_size}: attention needs a multiple of its {heads} heads.')
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.query = nn.Linear(hidden_size, embed_size)
        self.out = nn.Linear(embed_size, hidden_size)

    def summary(self, features):
        """Features of all places (B, P, E) -> the image as one vector (B, 1, E)."""
        return features.mean(dim=1, keepdim=True)

    def places(self, features):
        """Features (B, P, E) as the heads look at them, prepared once an image."""
        return self._split(self.dropout(features))

    def forward(self, places, hidden):
        """hidden: (B, T, H). Returns it with what was seen added, and the weights (B, T, P)."""
        query = self._split(self.query(hidden))                         # (B, heads, T, E / heads)
        similar = query @ places.transpose(2, 3) / query.shape[3] ** 0.5
        weights = similar.softmax(dim=3)                                # (B, heads, T, P)
        seen = (weights @ places).transpose(1, 2).flatten(2)            # (B, T, E)
        return hidden + self.out(seen), weights.mean(dim=1)

    def _split(self, x):
        """(B, T, E) -> (B, heads, T, E / heads), contiguous: or each step would copy it."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()


class NoAttention(nn.Module):
    """In the place of Attention where the image is one vector."""

    def summary(self, features):
        return features.unsqueeze(1)    # (B, 1, E)

    def places(self, features):
        return features

    def forward(self, places, hidden):
        return hidden, None


# ---- Where the weights of the CNN come from ----

HEAD = ('fc', 'classifier', 'head', 'avgpool', 'flatten', 'dropout', 'aux', 'AuxLogits')
INIT_TAKES_A_MINUTE = ('inception_v3', 'googlenet')    # both are Google's and take images in -1..1


def load_backbone(name, weights, grid=False):
    """A torchvision classifier without its head -> (nn.Sequential, C, transform).

    The Sequential has its stages, images (B, 3, S, S) -> (B, C, h, w), so that the last ones can be
    tuned, and a pool -> (B, C), or with `grid` (B, h * w, C). transform: the size S, mean and std
    of the images that it was trained on. weights: as EncoderCNN takes them.
    """
    if name not in torchvision.models.list_models(torchvision.models):
        raise ValueError(f"backbone='{name}': expected a torchvision classifier, such as "
                         "'resnet50', 'resnet152', 'vgg16' or 'convnext_tiny'.")
    is_file = weights is not None and Path(weights).is_file()
    network = _network(name, None if is_file or weights is None else str(weights))
    if is_file:
        _read_weights(network, name, weights)
    stages, transform = _stages(network), _transform(name, weights)
    channels = _channels(stages, name, transform['size'])
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()                                # -> (B, C)
    places = nn.Flatten(2), torchvision.ops.Permute([0, 2, 1])                  # -> (B, h * w, C)
    stages.append(nn.Sequential(*(places if grid else pool)))
    return stages, channels, transform


def _network(name, weights):
    """A torchvision classifier with its weights of the name `weights`, or random ones (None)."""
    if weights is None:
        quick = {'init_weights': False} if name in INIT_TAKES_A_MINUTE else {}
        return torchvision.models.get_model(name, **quick)
    known = torchvision.models.get_model_weights(name).__members__
    if weights not in known:
        raise ValueError(f"weights='{weights}' is no file and no weights name of {name} "
                         f'({", ".join(known)}).')
    try:
        return torchvision.models.get_model(name, weights=weights)
    except OSError as error:
        raise OSError(
            f"weights='{weights}' could not be downloaded ({error}). Leave `weights` out for those "
            'that ship with the repository, or download the file elsewhere and give its path.'
        ) from None


def _read_weights(network, name, file):
    """Read a file with a state dict into a torchvision classifier."""
    try:
        content = torch.load(file, map_location='cpu', weights_only=True)
        strides, state = content.get('strides'), content.get('state_dict', content)
    except Exception as error:    # a damaged or foreign file raises many kinds
        raise ValueError(
            f"weights='{file}' hold no state dict that can be read safely: {error}") from None
    head = {key: value for key, value in network.state_dict().items() if key.startswith(HEAD)}
    try:
        network.load_state_dict({**state, **head})    # the head will be cut off
    except RuntimeError as error:
        raise ValueError(f"weights='{file}' do not fit backbone='{name}'. Give its own, such as "
                         f"weights='IMAGENET1K_V2': {str(error)[:300]}") from None
    if strides == 'v1':    # a file without the mark is torchvision's own kind
        _stride_in_first_convolution(network)


def _stride_in_first_convolution(resnet):
    """Turn torchvision's ResNet (v1.5) into that of the 2015 paper (v1), for weights trained there.

    v1 halves the picture in the 1x1 convolution that opens a stage, v1.5 in the 3x3 that follows;
    the weights load into either.
    """
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def _stages(network):
    """The children of a classifier that come before its head, in eval mode."""
    stages = OrderedDict()
    for name, child in network.named_children():
        if name == 'features':
            stages.update(child.named_children())
        elif not name.startswith(HEAD):
            stages[name] = child
    if isinstance(network, torchvision.models.DenseNet):
        stages['relu'] = nn.ReLU()    # which torchvision applies outside of the modules
    return nn.Sequential(stages).eval()


def _transform(name, weights):
    """Size, mean and std of the images that a classifier was trained on."""
    known = torchvision.models.get_model_weights(name)
    trained_on = known.__members__.get(str(weights), known.DEFAULT).transforms()
    mean, std = list(trained_on.mean), list(trained_on.std)
    if name in INIT_TAKES_A_MINUTE:    # torchvision turns its usual range into -1..1 for them
        mean, std = [0.5] * 3, [0.5] * 3
    return {'size': trained_on.crop_size[0], 'mean': mean, 'std': std}


def _channels(stages, name, size):
    """C of the map of features; ValueError where the stages give none."""
    shape, reason = (), ''
    try:
        with torch.no_grad():
            shape = stages(torch.zeros(1, 3, size, size)).shape
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = error
    if len(shape) != 4:
        raise ValueError(f"backbone='{name}' gives no map of features (B, C, h, w), "
                         f'but {list(shape)} {reason}.')
    return shape[1]
