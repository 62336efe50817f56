"""A captioner as ONNX files, which run without PyTorch.

    captioner = load_captioner('runs/scenes/best.pt', 'cpu', names=False)
    export_onnx(captioner, 'folder')        # then: python folder/caption.py photo.jpg

docs/onnx.md tells what each file takes and gives. A decoder is exported by its `init_state` and
`step`, whatever is in them, if its state is a tuple of tensors whose first axis is the batch.
Axes: B batch, S side of an image in pixels.
"""

import importlib.util
import shutil
import warnings
from pathlib import Path

import torch
from torch import nn

from captioning.files import write_aside, write_json

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
OPSET = 18              # read by onnxruntime since 1.14, of 2023
TRACED = 3              # images in the batch that is traced
PROBES = (1, 4)         # images in the batches that are compared with PyTorch
STEPS = 3               # words that are compared
TOLERANCE = 1e-3        # of the largest value; onnxruntime's rounding makes some 1e-6
SCRIPT = Path(__file__).with_name('onnx_caption.py')
EDGES = r'^\s+|\s+$'    # of a text: what str.strip removes


def export_onnx(captioner, folder):
    """Write a captioner as ONNX, float32, with caption.py, which captions by it without names.

    captioner: on the CPU. RuntimeError tells which packages are missing, or that a part gives
    other numbers than in PyTorch; ValueError which part PyTorch cannot export, and why. Either
    leaves the folder as it was. The graphs are PyTorch's, by torch.onnx.export.
    """
    check_packages()
    encoder, decoder = captioner.encoder, captioner.decoder
    size = encoder.transform['size']
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')    # the exporter's, of its own workings
        parts = export_parts(encoder, decoder, probe_images(TRACED, size))
        compare(parts, encoder, decoder, size)
    folder = Path(folder)
    for name, content in parts.items():
        with write_aside(folder / f'{name}.onnx') as aside:
            aside.write_bytes(content)
    write_json(folder / 'captioner.json', configuration(captioner))
    with write_aside(folder / 'caption.py') as aside:
        shutil.copyfile(SCRIPT, aside)


def check_packages():
    """RuntimeError names the packages that are to be installed, where there are such."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f'ONNX needs packages that are not installed: '
                           f'`pip install {" ".join(missing)}`.')


def configuration(captioner):
    """What caption.py needs besides the networks, as plain values."""
    vocab, decoder = captioner.vocab, captioner.decoder
    return {
        **captioner.encoder.transform,
        'words': list(vocab.word2idx),
        'start_id': decoder.start_id, 'end_id': decoder.end_id, 'unk_id': vocab.unk_id,
        'joining': joining_rules(),
    }


def joining_rules():
    """nltk's rules that join tokens to a sentence, as lists [pattern, replacement] of re.sub.

    In the order of TreebankWordDetokenizer.tokenize, for a text with a space at either end.
    """
    from nltk.tokenize.treebank import TreebankWordDetokenizer as rules  # here: it is slow
    contractions = [*rules.CONTRACTIONS3, *rules.CONTRACTIONS2]
    ordered = [
        *((contraction, r'\1\2') for contraction in contractions), *rules.ENDING_QUOTES,
        (EDGES, ''), rules.DOUBLE_DASHES, *rules.PARENS_BRACKETS, *rules.PUNCTUATION,
        *rules.STARTING_QUOTES, (EDGES, '')]
    return [[getattr(pattern, 'pattern', pattern), joined] for pattern, joined in ordered]


# ---- The networks ----

class Start(nn.Module):
    """Features (B, ...) -> the decoder's state before the first word."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.embed, self.decoder = encoder.embed, decoder

    def forward(self, features):
        return tuple(self.decoder.init_state(self.embed(features)))


class Step(nn.Module):
    """Words (B,) and a state -> logits (B, V), and those parts of the state that steps change."""

    def __init__(self, decoder, changing):
        super().__init__()
        self.decoder, self.changing = decoder, changing

    def forward(self, words, *state):
        logits, state = self.decoder.step(words, state)
        return logits, *(state[number] for number in self.changing)


def export_parts(encoder, decoder, images):
    """{'encoder': , 'start': , 'step': } -> bytes of ONNX. images: (B, 3, S, S), to trace with."""
    features, start = encoder.backbone(images), Start(encoder, decoder)
    words = torch.full((len(images),), decoder.start_id)
    first = start(features)
    _, state = decoder.step(words, first)
    _, later = decoder.step(words, state)
    if not all(isinstance(part, torch.Tensor) for part in (*first, *state)):
        raise ValueError('the state of a decoder that is exported is a tuple of tensors.')
    changing = changing_parts(state, later)
    names = [f'state_{number}' for number in range(len(first))]
    changed = [f'next_{names[number]}' for number in changing]
    growing = [growing_axes(*pair) for pair in zip(state, later, strict=True)]
    axes = [{}, *growing]
    return {    # first what is most often edited
        'step': exported(Step(decoder, changing), [words, *state], ['words', *names],
                         ['logits', *changed], axes),
        'start': exported(start, [features], ['features'], names),
        'encoder': exported(encoder.backbone, [images], ['images'], ['features']),
    }


def changing_parts(state, later):
    """Which parts of a state a step replaced: the others, such as the image, it handed on."""
    return [number for number, (part, after) in enumerate(zip(state, later, strict=True))
            if after is not part]


def growing_axes(part, later):
    """{axis: its name} of those axes that are longer after a step, such as that of words so far."""
    return {axis: 'words' for axis, size in enumerate(part.shape) if later.shape[axis] != size}


def exported(network, inputs, names, output_names, axes=None):
    """A network as ONNX, whose batch may have any size -> bytes.

    axes: for each input {axis: name} of others that may have any size.
    """
    sizes = [{0: 'batch', **others} for others in axes or [{}] * len(inputs)]
    if isinstance(network, Step):
        sizes = [sizes[0], tuple(sizes[1:])]    # words, *state
    try:
        program = torch.onnx.export(
            network.eval(), tuple(inputs), dynamo=True, opset_version=OPSET, verbose=False,
            dynamic_shapes=tuple(sizes), input_names=names, output_names=output_names)
    except Exception as error:    # any code may be in a model file
        raise ValueError(
            f'{" and ".join(output_names)} cannot be exported to ONNX: {_first_cause(error)}. '
            'What PyTorch can export is at https://docs.pytorch.org/docs/stable/export.html'
        ) from error
    return _without_traces(program.model_proto).SerializeToString()


def _first_cause(error):
    while error.__cause__:
        error = error.__cause__
    message = ' '.join(str(error).split())
    return f'{type(error).__name__}: {message[:300]}'


def _without_traces(model):
    """An ONNX model without the exporter's notes, which tell paths of this machine."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info,
                  *graph.initializer):
        noted.ClearField('metadata_props')
    return model


# ---- The same numbers as in PyTorch? ----

def probe_images(count, size):
    """Random images (B, 3, S, S), the same each time."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def compare(parts, encoder, decoder, size):
    """RuntimeError names a part that gives other numbers than in PyTorch."""
    from onnxruntime import InferenceSession  # here: few have it installed
    sessions = {name: InferenceSession(content, providers=['CPUExecutionProvider'])
                for name, content in parts.items()}
    start = Start(encoder, decoder)
    for count in PROBES:
        images = probe_images(count, size)
        features = encoder.backbone(images)
        state = start(features)
        _check('encoder', sessions, [images], [features])
        _check('start', sessions, [features], state)
        words = torch.full((count,), decoder.start_id)
        for _ in range(STEPS):
            logits, later = decoder.step(words, state)
            changed = [later[number] for number in changing_parts(state, later)]
            _check('step', sessions, [words, *state], [logits, *changed])
            words, state = logits.argmax(dim=1), later


def _check(name, sessions, inputs, expected):
    session = sessions[name]
    names = [argument.name for argument in session.get_inputs()]
    feeds = {key: value.numpy() for key, value in zip(names, inputs, strict=True)}
    outputs = [torch.from_numpy(output) for output in session.run(None, feeds)]
    for output, right in zip(outputs, expected, strict=True):
        if not right.numel():    # such as the words before the first
            continue
        largest = right.abs().max()
        if not (output - right).abs().max() <= TOLERANCE * largest.clamp(min=1):    # also for NaN
            raise RuntimeError(
                f'{name}.onnx gives other numbers than PyTorch for a batch of {len(right)}: is '
                'there a Python `if` or a number that follows from tensors in the model?')
