"""A recognizer that is trained in seconds: one linear layer on the features of images.

    recognizer = trained_recognizer(features, labels, words, backbone_hash)
    recognizer.save(path)
    recognizer = LinearRecognizer.load(path)

Axes: N images, C channels, W words.
"""

import torch
from torch import nn

from captioning.files import repository_path, write_aside
from captioning.recognition.words import Word


class LinearRecognizer(nn.Module):
    """Probabilities of words by a linear layer on the square roots of features.

    Roots, since a few channels are far stronger in photos of another kind than those trained on: of
    people in COCO photos it knows more by them (docs/names.md). weight: (W, C). bias: (W,). words:
    W of them. backbone_hash: of the CNN that it belongs to.
    """

    def __init__(self, weight, bias, words, backbone_hash):
        super().__init__()
        self.words, self.backbone_hash = list(words), backbone_hash
        self.register_buffer('weight', weight.float())
        self.register_buffer('bias', bias.float())

    @torch.no_grad()
    def probabilities(self, features):
        """Pooled features (N, C) -> (N, W), each word by itself."""
        self.to(features.device)
        return (roots(features) @ self.weight.T + self.bias).sigmoid()

    def save(self, path):
        """Write it to a file, the weights in float16."""
        content = {'weight': self.weight.half(), 'bias': self.bias, 'words': list(map(
            list, self.words)), 'backbone_hash': self.backbone_hash}
        with write_aside(path) as aside:
            torch.save(content, aside)

    @classmethod
    def load(cls, path):
        """FileNotFoundError and ValueError say what is wrong with a file."""
        def of_content(content):
            words = [Word(*values[:4], tuple(values[4]), values[5]) for values in content['words']]
            return cls(content['weight'], content['bias'], words, content['backbone_hash'])

        return read_weights(path, of_content, 'recognizer')


def read_weights(path, of_content, expected):
    """`of_content` of what a file holds, read safely -> what that returns.

    expected: what should be in it. FileNotFoundError and ValueError say what is wrong with it.
    """
    try:
        return of_content(torch.load(path, map_location='cpu', weights_only=True))
    except FileNotFoundError:
        raise FileNotFoundError(f'{repository_path(path)} not found. If it comes with the '
                                'repository, restore it.') from None
    except Exception as error:    # a damaged or foreign file raises many kinds
        raise ValueError(f'{repository_path(path)} holds no {expected} that can be read safely: '
                         f'{str(error)[:200]}') from None


def roots(features):
    return features.float().clamp(min=0).sqrt()


def trained_recognizer(features, labels, words, backbone_hash, decay=0.1):
    """Train one by logistic regression -> LinearRecognizer.

    features: (N, C), pooled. labels: (N, W) from 0 to 1, how sure it is that a word is true of an
    image. decay: of the weights, of features with a mean of 0 and a deviation of 1; the stronger,
    the less it trusts what holds for the images trained on alone.
    """
    inputs, labels = roots(features), labels.float()
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0) + 1e-3
    inputs = (inputs - mean) / deviation
    weight = torch.zeros(labels.shape[1], inputs.shape[1], requires_grad=True)
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn='strong_wolfe')

    def loss():
        optimizer.zero_grad()
        with torch.enable_grad():
            scores = inputs @ weight.T + bias
            error = nn.functional.binary_cross_entropy_with_logits(scores, labels)
            total = error + decay * weight.square().sum() / labels.shape[1]
            total.backward()
        return total

    optimizer.step(loss)
    weight, bias = weight.detach() / deviation, bias.detach()
    return LinearRecognizer(weight, bias - weight @ mean, words, backbone_hash)
