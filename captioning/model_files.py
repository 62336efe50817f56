"""Files that define a model: model.py, another one by --model-file, or the copy of a run.

    classes = load_model_file('runs/NAME/model.py')     # the module; classes.DecoderRNN
    arguments = model_arguments(classes)                # {name: Argument(default, help)}
    texts = recorded_sources(classes.__file__)          # what a run keeps of it

A model file defines EncoderCNN and DecoderRNN. It may import other modules of the repository, which
a run then records in a folder `imports` beside it, so that the copy works alone.
"""

import ast
import contextlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

import model
from captioning import files

DERIVED = ('vocab_size', 'start_id', 'end_id', 'grid')    # arguments that follow from the data
IMPORTS = 'imports'


class Argument(NamedTuple):
    """A keyword argument of EncoderCNN or DecoderRNN. default: inspect.Parameter.empty if none."""

    default: object
    help: str


# ---- Loading ----

def load_model_file(path=None):
    """The module in a file such as runs/NAME/model.py; by default that of the repository.

    This runs the file: give one that you trust. FileNotFoundError says that it is not there.
    """
    if path is None:
        return model
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'model_file {path} not found. Expected a file that defines '
                                'EncoderCNN and DecoderRNN, such as the model.py of a run.')
    name = f'model_of_{path.resolve().parent.name}'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    with _importing_from(path.with_name(IMPORTS)):
        spec.loader.exec_module(module)
    return module


def build_encoder(classes, sizes):
    """EncoderCNN from its keyword arguments; a relative path of weights is in the repository."""
    weights = sizes['weights']
    return classes.EncoderCNN(**{**sizes, 'weights': files.weights_file(weights) or weights})


@contextlib.contextmanager
def _importing_from(folder):
    """Within the block, what a run has recorded in `folder` is imported from there."""
    recorded = {_module_name(file.relative_to(folder)) for file in folder.rglob('*.py')}
    if not recorded:
        yield
        return
    of_today = {name: sys.modules.pop(name) for name in recorded & sys.modules.keys()}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in recorded:
            sys.modules.pop(name, None)
        sys.modules.update(of_today)


# ---- Arguments ----

def model_arguments(classes):
    """The arguments that training can set -> {name: Argument}, those of EncoderCNN first."""
    arguments = {}
    for kind in (classes.EncoderCNN, classes.DecoderRNN):
        described = argument_help(kind)
        for name, default in signature_defaults(kind).items():
            if name not in DERIVED:
                arguments.setdefault(name, Argument(default, described.get(name, '')))
    return arguments


def signature_defaults(kind):
    """{name: default} of the keyword arguments of a class, without self."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters
            if parameter.kind == parameter.POSITIONAL_OR_KEYWORD
            or parameter.kind == parameter.KEYWORD_ONLY}


def argument_help(kind):
    """{name: text} of the lines `name: text` in a class's docstring; further lines are indented."""
    texts, name = {}, None
    for line in (inspect.getdoc(kind) or '').splitlines():    # a subclass may have its base's
        if match := re.fullmatch(r'(\w+): (.*)', line):
            name = match[1]
            texts[name] = match[2]
        elif name and line.startswith('  '):
            texts[name] += ' ' + line.strip()
        else:
            name = None
    return texts


def accepted(kind, arguments):
    """Those of `arguments` that the class takes."""
    return {name: arguments[name] for name in signature_defaults(kind) if name in arguments}


# ---- What a run keeps ----

def recorded_sources(path):
    """The text of a model file, and of the repository's modules that it imports.

    Returns {file: text}, where file is as in a run's folder: 'model.py', 'imports/...'.
    """
    path = Path(path)
    sources = {'model.py': path.read_text('utf-8')}
    beside = path.with_name(IMPORTS)
    if beside.is_dir():    # the copy of a run: what was recorded then
        return sources | {file.relative_to(path.parent).as_posix(): file.read_text('utf-8')
                          for file in sorted(beside.rglob('*.py'))}
    imported = {file.relative_to(files.ROOT).as_posix(): file.read_text('utf-8')
                for file in sorted(_imported_files(path))}
    return sources | {f'{IMPORTS}/{name}': text for name, text in imported.items()}


def _imported_files(path, known=()):
    """Files of the repository that a file imports, and that these import."""
    imported = set(known)
    for name in _imported_names(path):
        for file in _files_of_module(name):
            if file not in imported and file != path.resolve():
                imported |= _imported_files(file, {*imported, file})
    return imported


def _imported_names(path):
    """Dotted names of all modules that a file's import statements may mean."""
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _files_of_module(name):
    """The file of a module of the repository, and of the packages that it lies in."""
    parts = name.split('.')
    for count in range(1, len(parts) + 1):
        base = files.ROOT.joinpath(*parts[:count])
        for file in (base.with_suffix('.py'), base / '__init__.py'):
            if file.is_file():
                yield file


def _module_name(file):
    parts = file.with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
