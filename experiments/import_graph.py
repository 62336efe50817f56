"""Who imports whom: checks that there is no circle, and draws docs/imports.svg.

    python -m experiments.import_graph

Modules are those of the top level and of captioning/, with the commands above them. The picture
shows a package, such as captioning/training, as one box; each box stands above all that it imports.
An import inside a function counts for circles too, and is drawn dashed.
"""

import ast
import graphlib

import matplotlib
from matplotlib.figure import Figure

from captioning import files
from captioning.figures import BLUE, GREEN, GREY, ORANGE

TOP = ('vocabulary', 'data_loader', 'model')
COMMANDS = 'scripts'


def read_modules():
    """{dotted name: path} of the top-level modules, the library and the commands."""
    paths = [files.ROOT / f'{name}.py' for name in TOP]
    for folder in ('captioning', COMMANDS):
        paths += sorted((files.ROOT / folder).rglob('*.py'))
    modules = {}
    for path in paths:
        parts = path.relative_to(files.ROOT).with_suffix('').parts
        modules['.'.join(part for part in parts if part != '__init__')] = path
    return modules


def read_imports(modules):
    """{module: {imported module: at the top of the file?}}"""
    imports = {}
    for name, path in modules.items():
        tree = ast.parse(path.read_text('utf-8'))
        at_top = {id(node) for node in tree.body}
        imports[name] = {}
        for node in ast.walk(tree):
            for target in _targets(node, modules):
                if target != name:
                    known = imports[name].get(target, False)
                    imports[name][target] = known or id(node) in at_top
    return imports


def _targets(node, modules):
    """Modules that a statement imports: of `from a import b`, a.b where that is a module."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        inside = [f'{node.module}.{alias.name}' for alias in node.names]
        submodules = [name for name in inside if name in modules]
        names = submodules if len(submodules) == len(inside) else [node.module, *submodules]
    else:
        names = []
    return [name for name in names if name in modules]


def circle(imports):
    """The modules of a circle of imports, or None."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


# ---- The picture ----

def box_of(module):
    """What a module is drawn as: itself, its package in captioning/, or the commands."""
    first, *rest = module.split('.')
    if first == 'captioning' and len(rest) > 1:
        return f'{rest[0]}/'
    if first == 'captioning' and rest and (files.ROOT / 'captioning' / rest[0]).is_dir():
        return f'{rest[0]}/'
    return f'{COMMANDS}/' if first == COMMANDS else (rest or [first])[0]


def boxes_of(imports):
    """The same for boxes: {box: {imported box: at the top of a file?}}"""
    boxes = {}
    for module, targets in imports.items():
        box = boxes.setdefault(box_of(module), {})
        for target, at_top in targets.items():
            name = box_of(target)
            if name != box_of(module) and name != 'captioning':
                box[name] = box.get(name, False) or at_top
    boxes.pop('captioning', None)
    return boxes


def levels_of(boxes):
    """{box: how many boxes may stand below it}"""
    levels = {}
    for box in graphlib.TopologicalSorter(boxes).static_order():
        levels[box] = 1 + max((levels[target] for target in boxes.get(box, ())), default=-1)
    return levels


def place(boxes):
    """{box: (x, y)}: each level in a row, a box near the middle of what it imports."""
    levels, places = levels_of(boxes), {}
    for level in range(max(levels.values()) + 1):
        row = [box for box in levels if levels[box] == level]
        row.sort(key=lambda box: _mean([places[target][0] for target in boxes[box]]))
        for number, box in enumerate(row):
            places[box] = ((number + 0.5) / len(row) * 12, level)
    return places


def _mean(values):
    return sum(values) / len(values) if values else 6


def draw(boxes):
    places = place(boxes)
    figure = Figure(figsize=(15, 9))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis('off')
    axis.set(xlim=(0, 12), ylim=(-0.6, max(y for _, y in places.values()) + 0.6))
    for box, targets in boxes.items():
        for target, at_top in targets.items():
            axis.annotate('', places[target], places[box], arrowprops={
                'arrowstyle': '-', 'color': GREY, 'alpha': 0.35, 'linewidth': 0.8,
                'linestyle': '-' if at_top else '--'})
    for box, (x, y) in places.items():
        colour = ORANGE if box in TOP else GREEN if box.endswith('/') else BLUE
        axis.text(x, y, box, ha='center', va='center', fontsize=9, bbox={
            'boxstyle': 'round,pad=0.35', 'facecolor': 'white', 'edgecolor': colour})
    return figure


def main():
    imports = read_imports(read_modules())
    if found := circle(imports):
        raise SystemExit(f'a circle: {" -> ".join(found)}')
    count = sum(map(len, imports.values()))
    print(f'{len(imports)} modules, {count} imports, no circle')
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'imports'}):
        file = files.ROOT / 'docs' / 'imports.svg'
        draw(boxes_of(imports)).savefig(file, metadata={'Date': None})
    print('docs/imports.svg')


if __name__ == '__main__':
    main()
