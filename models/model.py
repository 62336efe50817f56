"""The model: a CNN turns an image into a vector, an LSTM turns the vector into a caption,
word by word.

    encoder, decoder = EncoderCNN(embed_size=512), DecoderRNN(512, 512, vocab_size=len(vocab))
    scores = decoder(encoder(images), captions)         # training: (B, T, V)
    ids = decoder.sample(encoder(image).unsqueeze(1))   # inference: [start, words..., end]

Vinyals et al. 2015, Show and Tell: A Neural Image Caption Generator. Other encoders, and other ways
for the image into the LSTM, are arguments. Beam search, sampling and the rest (scripts/decoding.py)
need `init_state` and `step` alone.
Axes: B batch, T caption length, V vocabulary, E embedding, H hidden, C channels of the CNN,
P places of an image, L layers of the LSTM.
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torchvision
from torch import nn

DEFAULT_WEIGHTS = Path(__file__).resolve().parent / 'models' / 'resnet50_v1_imagenet.pt'
# not of the trunk
HEADS = ('fc', 'classifier', 'head', 'avgpool', 'flatten', 'dropout', 'aux', 'AuxLogits')
OWN_START = ('inception_v3', 'googlenet')


# ---- Encoder ----

def stride_in_first_convolution(resnet):
    """Turn torchvision's ResNet (v1.5) into the network of the 2015 paper (v1), for weights trained
    with it.

    v1 halves the picture in the 1x1 convolution that opens a stage, v1.5 in the 3x3 that follows.
    The weights have the same shapes and load into either, but only one of them gives the right
    features.
    """
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def named_network(name, weights):
    """A torchvision classifier with its own weights of the name `weights`, or with random ones
    (None).
    """
    known = torchvision.models.get_model_weights(name).__members__
    if weights is None:    # some have a start of their own, which takes a minute
        return torchvision.models.get_model(
            name, **{'init_weights': False} if name in OWN_START else {})
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


def read_weights(network, name, file):
    """Read a file with a state dict into a torchvision classifier; what its head holds does not
    matter.
    """
    try:
        state = torch.load(file, map_location='cpu', weights_only=True)
        strides, state = state.get('strides'), state.get('state_dict', state)
    except Exception as error:    # a damaged or foreign file raises many kinds
        raise ValueError(
            f"weights='{file}' hold no state dict that can be read safely: {error}") from None
    if strides == 'v1':    # a file without the mark is torchvision's own kind
        stride_in_first_convolution(network)
    head = {key: value for key, value in network.state_dict().items()
            if key.startswith(HEADS)}    # any will do
    try:
        network.load_state_dict({**state, **head})
    except RuntimeError as error:
        raise ValueError(
            f"weights='{file}' do not fit backbone='{name}': {str(error)[:300]}") from None


def load_backbone(name, weights, grid=False):
    """The trunk of a torchvision classifier ->
    (nn.Sequential of its stages and a pool, C, transform).

    The stages turn images (B, 3, S, S) into a map of features (B, C, h, w); the pool makes that
    (B, C), or with `grid` (B, h * w, C). The last stages can be tuned while the first stay as they
    are. transform: size S, mean and std of the images that it was trained on. weights: as
    EncoderCNN takes them.
    """
    if name not in torchvision.models.list_models(torchvision.models):
        raise ValueError(
            f"backbone='{name}': expected a torchvision classifier, such as 'resnet50', "
            "'resnet152', 'vgg16', 'inception_v3' or 'convnext_tiny'.")
    is_file = weights is not None and Path(weights).is_file()
    network = named_network(name, None if is_file or weights is None else str(weights))
    if is_file:
        read_weights(network, name, weights)
    stages = OrderedDict()
    for child_name, child in network.named_children():
        if not child_name.startswith(HEADS):
            stages.update(
                child.named_children() if child_name == 'features' else {child_name: child})
    if isinstance(network, torchvision.models.DenseNet):
        stages['relu'] = nn.ReLU()    # which torchvision applies outside of the modules
    known = torchvision.models.get_model_weights(name)
    trained_on = known.__members__.get(str(weights), known.DEFAULT).transforms()
    size, mean, std = trained_on.crop_size[0], list(trained_on.mean), list(trained_on.std)
    if name in OWN_START:    # Google's take -1..1: torchvision turns its own usual range into that
        mean, std = [0.5] * 3, [0.5] * 3
    stages, error = nn.Sequential(stages).eval(), ''
    try:
        with torch.no_grad():
            shape = stages(torch.zeros(1, 3, size, size)).shape
    except (RuntimeError, TypeError, AssertionError) as found:
        shape, error = (), found
    if len(shape) != 4:
        raise ValueError(f"backbone='{name}' gives no map of features (B, C, h, w), "
                         f'but {list(shape)} {error}.')
    stages.append(nn.Sequential(nn.Flatten(2), Transpose()) if grid
                  else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return stages, shape[1], {'size': size, 'mean': mean, 'std': std}


class Transpose(nn.Module):
    """(B, C, P) -> (B, P, C)"""

    def forward(self, features):
        return features.transpose(1, 2)


class BatchNorm(nn.BatchNorm1d):
    """Batch-norm of (B, E) or (B, P, E) that takes a single row in training too: the running
    statistics serve then.
    """

    def forward(self, features):
        rows = features.flatten(0, -2)
        if self.training and len(rows) == 1:
            rows = nn.functional.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias)
        else:
            rows = super().forward(rows)
        return rows.view_as(features)


class EncoderCNN(nn.Module):
    """Image -> vector, with `grid` a vector for each place: a frozen CNN (`backbone`) and a
    trainable head (`embed`).

    backbone: a torchvision classifier. weights: the shipped file, another file with a state dict, a
    torchvision weights name such as 'IMAGENET1K_V2', or None for random weights. `transform` says
    which images it takes: size, mean, std. The backbone stays in eval mode under .train(), so that
    its batch-norm statistics do not drift. The head ends with a batch-norm of its own: pooled
    features are all positive and much alike, and what tells images apart is how they differ from
    their mean. Raises ValueError or OSError that says what to do when the weights cannot be had.
    """

    def __init__(self, embed_size, backbone='resnet50', weights=DEFAULT_WEIGHTS, grid=False):
        super().__init__()
        self.backbone, feature_size, self.transform = load_backbone(backbone, weights, grid)
        self.backbone.requires_grad_(False)
        self.embed = nn.Sequential(
            nn.Linear(feature_size, embed_size, bias=False), BatchNorm(embed_size))
        self.train()

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images):
        features = self.backbone(images)    # (B, C), or (B, P, C)
        return self.embed(features)         # (B, E), or (B, P, E)


# ---- Decoder ----

class Dropout(nn.Dropout):
    """nn.Dropout with the mask drawn by torch.rand: PyTorch's own way takes five times as long on a
    CPU.
    """

    def forward(self, x):
        if not self.training or not self.p:
            return x
        kept = torch.rand(x.shape, device=x.device) >= self.p
        return x * (kept * (1 / (1 - self.p) if self.p < 1 else 0.0)).to(x.dtype)


class Attention(nn.Module):
    """Where to look for the next word: heads that each give every place a weight, from what the
    LSTM has in mind.

    Scaled dot products (Vaswani et al. 2017, Attention Is All You Need) after the LSTM, not before
    it (Lu et al. 2017, Knowing When to Look), so that all words of a caption are computed at once.
    """

    def __init__(self, embed_size, hidden_size, heads=8):
        super().__init__()
        if embed_size % heads:
            raise ValueError(
                f'embed_size={embed_size}: attention needs a multiple of its {heads} heads.')
        self.heads = heads
        self.query, self.out = (
            nn.Linear(hidden_size, embed_size), nn.Linear(embed_size, hidden_size))

    def split(self, features):
        """(B, P, E) -> (B, heads, P, E / heads), once an image: most of the work of a step would be
        to copy it.
        """
        return features.unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()

    def forward(self, places, hidden):
        """places: features of `split`; hidden: (B, T, H).

        Returns what is seen (B, T, H), and the weights (B, T, P).
        """
        query = self.split(self.query(hidden))
        # (B, heads, T, P)
        weights = (query @ places.transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=3)
        return self.out((weights @ places).transpose(1, 2).flatten(2)), weights.mean(dim=1)


class DecoderRNN(nn.Module):
    """Vector -> caption: an LSTM that reads the image and the words so far, and scores the next
    word.

    image: where the image enters,
        'every': as the first input, and added to each word that follows (par-inject, Tanti et al.
            2018, Where to put the Image in an Image Caption Generator): an LSTM that saw it once
            half forgets it before it needs a noun
        'first': as the first input (Vinyals et al. 2015)
        'state': as the initial state
        'attention': its mean as with 'every'; what the LSTM then looks at is added to its output
            (Lu et al. 2017); features are (B, P, E), of an encoder with grid=True
    tied: a word is read and written by the same vector (Press and Wolf 2017, Using the Output
        Embedding to Improve Language Models); needs embed_size == hidden_size.
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
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.lstm = nn.LSTM(embed_size, hidden_size, num_layers, batch_first=True,
                            dropout=dropout if num_layers > 1 else 0.0)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(hidden_size, vocab_size)
        if tied:
            self.embedding.weight = self.linear.weight
        # rows of a linear layer are short for words beside an image
        self.scale = embed_size ** 0.5 if tied else 1.0
        if image == 'state':
            self.first_state = nn.Linear(embed_size, 2 * num_layers * hidden_size)
        if image == 'attention':
            self.attention = Attention(embed_size, hidden_size)

    def forward(self, features, captions):
        """Scores of the next word at every position, teacher-forced.

        features: (B, E), or (B, P, E) with attention. captions: (B, T) ids, each
        [start, words..., end, padding]. Returns (B, T, V): position t scores captions[:, t] given
        the image and captions[:, :t].
        """
        image = self.dropout(self._whole(features))                                 # (B, 1, E)
        words = self.dropout(self.scale * self.embedding(captions[:, :-1]))         # (B, T-1, E)
        if self.image == 'state':
            state = self.init_state(image.squeeze(1))[2:]
            hidden = state[0][:, -1:]                           # (B, 1, H): before any word
            if words.numel():                                   # none: captions (B, 1)
                hidden = torch.cat([hidden, self._read(words, state)[0]], dim=1)
        else:
            words = words if self.image == 'first' else words + image
            # (B, T, H), in one go: quicker
            hidden, _ = self._read(torch.cat([image, words], dim=1))
        return self.linear(self.dropout(self._look(self._places(features), hidden)))    # (B, T, V)

    def init_state(self, features, state=None):
        """State before the first word, a tuple of tensors (B, ...): image, places, h, c.

        features: as in `forward`. state: (h, c) that the LSTM starts from, each (B, L, H); zeros by
        default.
        """
        image = self._whole(features)
        if self.image != 'state':
            _, state = self._read(image, state)
        elif state is None:
            state = self.first_state(features).tanh().view(
                len(features), 2, -1, self.lstm.hidden_size).unbind(dim=1)
        return image, self._places(features), *state

    def step(self, words, state):
        """Read one word each, words (B,), and score the next: (scores (B, V), state)."""
        image, places, *state = state
        words = self.scale * self.embedding(words).unsqueeze(1)                     # (B, 1, E)
        if self.image in ('every', 'attention'):
            words = words + image
        hidden, state = self._read(words, state)
        return self.linear(self._look(places, hidden).squeeze(1)), (image, places, *state)

    def _whole(self, features):
        """The image as one vector, (B, 1, E)."""
        return (features.mean(dim=1, keepdim=True) if self.image == 'attention'
                else features.unsqueeze(1))

    def _places(self, features):
        """What attention looks at."""
        return (self.attention.split(self.dropout(features)) if self.image == 'attention'
                else features)

    def _look(self, places, hidden):
        """hidden (B, T, H), with attention together with what it makes the decoder look at."""
        return hidden + self.attention(places, hidden)[0] if self.image == 'attention' else hidden

    def _read(self, inputs, state=None):
        """inputs: (B, T, E); state: (h, c), each (B, L, H), or None for zeros.

        Returns hidden (B, T, H) and state.
        """
        if state is not None:
            # (L, B, H), as PyTorch wants it
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
        self.eval()    # without dropout: the same image gives the same caption
        state = self.init_state(
            features if self.image == 'attention' else features.squeeze(1),
            None if states is None else [part.transpose(0, 1) for part in states])
        ids = [self.start_id]
        while len(ids) < max_len and ids[-1] != self.end_id:
            scores, state = self.step(torch.tensor(ids[-1:], device=features.device), state)
            ids.append(scores.argmax(dim=1).item())
        self.train(training)
        return ids
