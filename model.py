"""The model: a CNN turns an image into one vector, an LSTM turns the vector into a caption, word by word.

    encoder, decoder = EncoderCNN(embed_size=512), DecoderRNN(512, 512, vocab_size=len(vocab))
    scores = decoder(encoder(images), captions)         # training: (B, T, V)
    ids = decoder.sample(encoder(image).unsqueeze(1))   # inference: [start, words..., end]

Vinyals et al. 2015, Show and Tell: A Neural Image Caption Generator.
Axes: B batch, T caption length, V vocabulary, E embedding, H hidden, C channels of the CNN, L layers of the LSTM.
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torchvision
from torch import nn

DEFAULT_WEIGHTS = Path(__file__).resolve().parent / 'models' / 'resnet50_v1_imagenet.pt'


def stride_in_first_convolution(resnet):
    """Turn torchvision's ResNet (v1.5) into the network of the 2015 paper (v1), for weights trained with it.

    v1 halves the picture in the 1x1 convolution that opens a stage, v1.5 in the 3x3 that follows. The weights have the
    same shapes and load into either, but only one of them gives the right features.
    """
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def load_backbone(name, weights):
    """A torchvision ResNet without its classifier, as a sequence of stages -> (nn.Sequential, feature size C).

    The stages are stem, layer1, ..., layer4 and pool: together from images (B, 3, 224, 224) to features (B, C). The
    last can be tuned while the first stay as they are. weights: the shipped file, another file with a state dict, a
    torchvision weights name such as 'IMAGENET1K_V2', or None for random weights. Raises ValueError or OSError that says
    what to do when they cannot be had.
    """
    if not name.startswith('resnet') or name not in torchvision.models.list_models():
        raise ValueError(f"backbone='{name}': expected a torchvision ResNet, such as 'resnet50' or 'resnet152'.")
    resnet = torchvision.models.get_model(name)
    stages = nn.Sequential(OrderedDict(
        stem=nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool),
        layer1=resnet.layer1, layer2=resnet.layer2, layer3=resnet.layer3, layer4=resnet.layer4,
        pool=nn.Sequential(resnet.avgpool, nn.Flatten())))
    if weights is None:
        return stages, resnet.fc.in_features
    if Path(weights).is_file():
        try:
            state = torch.load(weights, map_location='cpu', weights_only=True)
            strides, state = state.get('strides'), state.get('state_dict', state)
        except Exception as error:    # a damaged or foreign file raises many kinds
            raise ValueError(f"weights='{weights}' hold no state dict that can be read safely: {error}") from None
        if strides == 'v1':    # a file without the mark is torchvision's own kind
            stride_in_first_convolution(resnet)
    else:
        try:
            state = torchvision.models.get_model_weights(name)[str(weights)].get_state_dict(progress=True)
        except KeyError:
            known = ', '.join(entry.name for entry in torchvision.models.get_model_weights(name))
            raise ValueError(f"weights='{weights}' is no file and no weights name of {name} ({known}).") from None
        except OSError as error:
            raise OSError(f"weights='{weights}' could not be downloaded ({error}). Leave `weights` out for those that "
                          'ship with the repository, or download the file elsewhere and give its path.') from None
    try:
        classifier = {f'fc.{key}': value for key, value in resnet.fc.state_dict().items()}    # not used, any will do
        resnet.load_state_dict({**state, **classifier})
    except RuntimeError as error:
        raise ValueError(f"weights='{weights}' do not fit backbone='{name}': {str(error)[:300]}") from None
    return stages, resnet.fc.in_features


class BatchNorm(nn.BatchNorm1d):
    """Batch-norm that takes a single image in training too: one row has no statistics, so the running ones serve."""

    def forward(self, features):
        if self.training and len(features) == 1:
            return nn.functional.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias)
        return super().forward(features)


class Dropout(nn.Dropout):
    """nn.Dropout with the mask drawn by torch.rand: PyTorch's own way takes five times as long on a CPU."""

    def forward(self, x):
        if not self.training or not self.p:
            return x
        kept = torch.rand(x.shape, device=x.device) >= self.p
        return x * (kept * (1 / (1 - self.p) if self.p < 1 else 0.0)).to(x.dtype)


class EncoderCNN(nn.Module):
    """Image -> vector: a frozen CNN (`backbone`) and a trainable head (`embed`).

    The backbone stays in eval mode under .train(), so that its batch-norm statistics do not drift. The head ends with a
    batch-norm of its own: pooled features are all positive and much alike, and what tells images apart is how they
    differ from their mean.
    """

    def __init__(self, embed_size, backbone='resnet50', weights=DEFAULT_WEIGHTS):
        super().__init__()
        self.backbone, feature_size = load_backbone(backbone, weights)
        self.backbone.requires_grad_(False)
        self.embed = nn.Sequential(nn.Linear(feature_size, embed_size, bias=False), BatchNorm(embed_size))
        self.train()

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images):
        features = self.backbone(images)    # (B, C)
        return self.embed(features)         # (B, E)


class DecoderRNN(nn.Module):
    """Vector -> caption: an LSTM that reads the image, then the words so far, and scores the next word.

    The image is the first input (Vinyals et al. 2015) and is added to each word that follows (par-inject, Tanti et al.
    2018, Where to put the Image in an Image Caption Generator): an LSTM that saw it once has half forgotten it by the
    time it needs a noun. Six points of CIDEr on photos, measured.
    """

    def __init__(self, embed_size, hidden_size, vocab_size, num_layers=1, dropout=0.0, start_id=0, end_id=1):
        super().__init__()
        self.start_id, self.end_id = start_id, end_id
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.lstm = nn.LSTM(embed_size, hidden_size, num_layers, batch_first=True,
                            dropout=dropout if num_layers > 1 else 0.0)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(hidden_size, vocab_size)

    def forward(self, features, captions):
        """Scores of the next word at every position, teacher-forced.

        features: (B, E). captions: (B, T) ids, each [start, words..., end, padding]. Returns (B, T, V): position t
        scores captions[:, t] given the image and captions[:, :t].
        """
        image = self.dropout(features).unsqueeze(1)                           # (B, 1, E)
        words = self.dropout(self.embedding(captions[:, :-1]))                # (B, T-1, E)
        hidden, _ = self.lstm(torch.cat([image, words + image], dim=1))       # (B, T, H)
        return self.linear(self.dropout(hidden))                              # (B, T, V)

    def init_state(self, features):
        """State after the image, before the first word. features: (B, E). Returns a tuple of tensors (B, ...)."""
        return self._state(features, self.lstm(features.unsqueeze(1))[1])

    def _state(self, features, lstm_state):
        return features, *(part.transpose(0, 1) for part in lstm_state)       # (B, E); h and c, each (B, L, H)

    def step(self, words, state):
        """Read one word each, words (B,), and score the next: (scores (B, V), state)."""
        features, *state = state
        state = tuple(part.transpose(0, 1).contiguous() for part in state)    # (L, B, H), as the LSTM wants it
        inputs = self.embedding(words) + features                             # (B, E)
        hidden, state = self.lstm(inputs.unsqueeze(1), state)                 # (B, 1, H)
        return self.linear(hidden.squeeze(1)), self._state(features, state)

    @torch.no_grad()
    def sample(self, features, states=None, max_len=20):
        """Greedy caption of one image. features: (1, 1, E). Returns a list of at most max_len ints: [start, ..., end].

        states: (h, c) of the LSTM before it reads the image, each (L, 1, H); zeros by default.
        """
        training = self.training
        self.eval()    # without dropout: the same image gives the same caption
        state = self._state(features.squeeze(1), self.lstm(features, states)[1])
        ids = [self.start_id]
        while len(ids) < max_len and ids[-1] != self.end_id:
            scores, state = self.step(torch.tensor(ids[-1:], device=features.device), state)
            ids.append(scores.argmax(dim=1).item())
        self.train(training)
        return ids
