"""The settings of training: those below, and each argument of the model.

    settings = make_settings(name='scenes', epochs=5, image='attention')

An argument of EncoderCNN or DecoderRNN becomes a setting by being in the signature, with its
docstring's line as help; vocab_size, the special ids and grid follow from the data and are none.
"""

import argparse
import numbers
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path

from captioning import files, losses, rewards
from captioning.model_files import load_model_file, model_arguments

# Where training wants another default than the model has, or the model has none.
TRAINING_DEFAULTS = {'embed_size': 512, 'hidden_size': 512, 'dropout': 0.5}
KINDS_OF_DEFAULTS = (bool, int, float, str, type(None))    # of the model's arguments
BASELINES = ('mean', 'greedy')
START_WITH = ('model', 'cnn')


def setting(default, reason):
    return field(default=default, metadata={'help': reason})


@dataclass
class TrainingSettings:
    """What an experiment is made of, without the model. ValueError names what makes no sense."""

    name: str = setting('run', 'folder under runs/')
    cocoapi_loc: str | None = setting(
        None, 'folder that holds cocoapi/; default: $COCOAPI_LOC, here, or the scenes')
    model_file: str | None = setting(None, 'train the classes of this file; default: model.py')
    seed: int = setting(0, 'of the first weights, the order of captions and dropout')
    start: str | None = setting(
        None, 'checkpoint whose weights are the first ones; default: random ones')
    start_with: str = setting(
        'model', "what of `start` is taken: the 'model', or the 'cnn' alone, as it was tuned")
    save_seconds: float = setting(45.0, 'work that a kill may lose')
    vocab_threshold: int = setting(5, 'a word must occur this often in the training captions')

    batch_size: int = setting(128, 'captions a step, of all processes together')
    by_image: bool = setting(
        False, 'a step takes images with all their captions, as it always does with attention')
    views: int = setting(
        1, 'of each training image: as it is, 2: also flipped, from 3: also cropped at random')
    length_groups: int = setting(
        0, 'parts of like length of a batch, to save padding; 0: four on a CPU, two on one '
           'with AMX, one on a GPU')
    cuda_graphs: bool = setting(
        False, 'a step from features as one CUDA graph: the GPU waits less for the processor')
    epochs: int = setting(10, 'passes over all training captions, on features of the frozen CNN')
    learning_rate: float = setting(
        2e-3, 'highest, reached after the warm-up; then it falls to 0 along a cosine')
    warmup: float = setting(0.05, 'share of the steps in which the learning rate rises from 0')
    weight_decay: float = setting(0.01, 'AdamW: pull of the weights towards 0')
    loss: str = setting('cross_entropy', 'an entry of LOSSES in captioning/losses.py')
    label_smoothing: float = setting(0.1, 'share of the target that is spread over all words')
    clip_norm: float = setting(5.0, 'longest gradient; longer ones are scaled down')

    patience: int = setting(5, 'epochs without a better CIDEr after which a phase ends')
    val_images: int = setting(5000, 'images of the validation split that are used')
    max_len: int = setting(20, 'words of a generated caption, start and end included')

    tune_epochs: int = setting(
        0, 'passes over all training images after that, the last stages of the CNN trained')
    tune_stages: int = setting(
        1, 'children of the CNN that are tuned, counted from its end: those with weights')
    tune_batch_size: int = setting(32, 'images a step, each with all its captions')
    tune_learning_rate: float = setting(1e-4, 'highest of the tuned stages')
    tune_head_rate: float = setting(2e-4, 'highest of the rest meanwhile')
    tune_crop: float = setting(
        0.7, 'smallest share of a photo that is kept by random crops; 1: no crops')

    reward_epochs: int = setting(
        0, 'passes over all training images after that, rewarding the better captions')
    reward: str = setting('cider', 'an entry of REWARDS in captioning/rewards.py')
    reward_batch_size: int = setting(50, 'images a step')
    reward_samples: int = setting(5, 'captions that are drawn of each image')
    reward_baseline: str = setting(
        'mean', "what a caption must beat: the 'mean' of the others, or the 'greedy' one")
    reward_learning_rate: float = setting(5e-4, 'highest meanwhile')
    reward_cross_entropy: float = setting(
        0.1, "share of the usual loss, which keeps the captions a person's")

    def __post_init__(self):
        least = dict(seed=0, batch_size=1, views=1, length_groups=0, epochs=0, patience=1,
                     val_images=1, max_len=3, tune_epochs=0, tune_stages=1, tune_batch_size=1,
                     reward_epochs=0, reward_batch_size=1,
                     reward_samples=2 if self.reward_baseline == 'mean' else 1)
        for name, value in least.items():
            given = getattr(self, name)
            if not isinstance(given, numbers.Integral) or given < value:
                raise ValueError(f'{name}={given}: expected a whole number from {value}.')
        for name in ('learning_rate', 'tune_learning_rate', 'tune_head_rate',
                     'reward_learning_rate'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name}={getattr(self, name)}: expected a number from 0.')
        _check_choice('start_with', self.start_with, START_WITH)
        _check_choice('reward_baseline', self.reward_baseline, BASELINES)
        _check_choice('loss', self.loss, losses.LOSSES)
        _check_choice('reward', self.reward, rewards.REWARDS)
        later_epochs = self.tune_epochs or self.reward_epochs
        if self.start_with == 'cnn' and not self.start:
            raise ValueError("start_with='cnn' needs a checkpoint to start from: start=...")
        start = self.start if self.start_with == 'model' else None
        if not self.epochs and not (start and later_epochs):
            raise ValueError(
                f'epochs=0 needs a model to start from, which is {start}, and tune_epochs or '
                f'reward_epochs, which are {self.tune_epochs} and {self.reward_epochs}: there is '
                'nothing to train.')


def _check_choice(name, value, choices):
    if value not in choices:
        expected = ' or '.join(repr(choice) for choice in choices)
        raise ValueError(f'{name}={value!r}: expected {expected}.')


# ---- With the arguments of the model ----

def settings_class(classes):
    """The dataclass of all settings, with those of the model in the module `classes`."""
    of_model, of_training = [], {entry.name for entry in fields(TrainingSettings)}
    for name, argument in model_arguments(classes).items():
        default = TRAINING_DEFAULTS.get(name, argument.default)
        if isinstance(default, Path):    # the weights that ship, also for a copy of model.py
            shipped = files.ROOT / 'models' / default.name
            default = files.repository_path(default if default.is_file() else shipped).as_posix()
        problem = ''
        if name in of_training:
            problem = 'has the name of a setting of training: call it otherwise'
        elif not isinstance(default, KINDS_OF_DEFAULTS):
            problem = 'needs a default, a number, text, True, False or None, to be a setting'
        if problem:
            raise ValueError(f'{classes.__file__}: the argument {name} of the model {problem}.')
        of_model.append((name, type(default), setting(default, argument.help)))
    return make_dataclass('Settings', of_model, bases=(TrainingSettings,))


def make_settings(**values):
    """Settings of an experiment. TypeError names one that neither training nor the model has."""
    values = {name: str(value) if isinstance(value, Path) else value
              for name, value in values.items()}
    classes = load_model_file(values.get('model_file'))
    return settings_class(classes)(**values)


# ---- On the command line ----

GROUPS = {'name': 'run', 'batch_size': 'training on features', 'patience': 'validation',
          'tune_epochs': 'fine-tuning of the CNN',
          'reward_epochs': 'self-critical training'}    # the first setting of each


def read_arguments(description, arguments=None):
    """Settings and device from the command line -> (settings, device or None)."""
    model_file = argparse.ArgumentParser(add_help=False)
    model_file.add_argument('--model-file')
    chosen, _ = model_file.parse_known_args(arguments)
    kind = settings_class(load_model_file(chosen.model_file))
    parser = _parser(kind, description)
    values = vars(parser.parse_args(arguments))
    device = values.pop('device')
    return kind(**values), device


def _parser(kind, description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--device',
                        help='cuda, mps or cpu (default: the first of these that is there)')
    for entry in fields(TrainingSettings):
        if entry.name in GROUPS:
            group = parser.add_argument_group(GROUPS[entry.name])
        _add_flag(group, entry)
    group = parser.add_argument_group('model')
    for entry in fields(kind)[len(fields(TrainingSettings)):]:
        _add_flag(group, entry)
    return parser


def _add_flag(group, entry):
    kind = str if entry.default is None else type(entry.default)
    options = {'type': kind}
    if kind is bool:
        options = {'action': argparse.BooleanOptionalAction}
    text = entry.metadata['help'].replace('%', '%%')
    group.add_argument('--' + entry.name.replace('_', '-'), default=entry.default, **options,
                       help=f'{text} (default: {entry.default})')
