"""Text tables, for the terminal and for Markdown.

    print(text_table([('beam', 'CIDEr'), ('1', '57.1'), ('5', '59.7')]))
"""


def text_table(rows, gap=3, indent=0):
    """Rows of cells, the first of them the header -> text with aligned columns."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(' ' * indent + (' ' * gap).join(cells).rstrip())
    return '\n'.join(lines)


def markdown_table(rows):
    """The same rows as a table of Markdown."""
    header, *body = [[str(cell) for cell in row] for row in rows]
    lines = [header, ['---'] * len(header), *body]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def percent(fraction, interval=None):
    """A score, a fraction, x100 as in papers, with its 95 % interval where there is one."""
    text = f'{100 * fraction:.1f}'
    if interval is None:
        return text
    low, high = interval
    return f'{text} [{100 * low:.1f}, {100 * high:.1f}]'
