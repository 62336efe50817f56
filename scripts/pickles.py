"""Read a pickled Vocabulary from a stranger: nothing in it is run, and it takes no more than its size allows."""

import pickle
import pickletools

# What is in a pickled vocabulary.
OPCODES = frozenset('PROTO FRAME GLOBAL STACK_GLOBAL EMPTY_TUPLE TUPLE NEWOBJ REDUCE BUILD MARK DICT EMPTY_DICT '
                    'SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET UNICODE BINUNICODE '
                    'SHORT_BINUNICODE STRING BINSTRING SHORT_BINSTRING INT BININT BININT1 BININT2 LONG LONG1 NONE '
                    'NEWTRUE NEWFALSE STOP'.split())


class _Unpickler(pickle.Unpickler):
    """Builds dicts, strings, numbers and one bare object; anything else that a pickle asks for is refused, not run."""

    def find_class(self, module, name):
        bare = type('Bare', (), {})    # made anew each time: a pickle may set attributes of the class itself
        if name == 'Vocabulary' and module in ('vocabulary', '__main__', 'build_vocab'):
            return bare
        if (module, name) == ('copy_reg', '_reconstructor'):    # how protocol 0 makes an instance
            return lambda *_: bare()
        if (module, name) == ('__builtin__', 'object'):
            return 'object'
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _check_opcodes(file):
    """Refuse what no pickled vocabulary has, and what could take all memory or hours to build."""
    tuples = 0
    for opcode, argument, position in pickletools.genops(file):
        tuples += opcode.name == 'TUPLE'    # nested ones are hashed again and again
        if opcode.name not in OPCODES or tuples > 1 or ('PUT' in opcode.name and argument > position):
            raise ValueError(f'{opcode.name} at byte {position}')
    file.seek(0)


def read_pickle(path):
    """Attributes of a pickled Vocabulary as a dict, with a checked 'word2idx'."""
    try:
        with open(path, 'rb') as file:
            _check_opcodes(file)
            found = vars(_Unpickler(file, encoding='utf-8').load())
        words = found['word2idx']
        if type(found) is not dict or type(words) is not dict:    # a class could be given an endless iterator
            raise ValueError('word2idx is no dict')
        if {str} != set(map(type, words)) or {int} != set(map(type, words.values())) or (
                sorted(words.values()) != list(range(len(words)))):
            raise ValueError('word2idx does not map words to 0, 1, 2, ...')
        for key in ('start_word', 'end_word', 'unk_word', 'annotations_hash'):
            if not isinstance(found.get(key, ''), (str, type(None))):
                raise ValueError(f'{key} is no text')
        return found
    except Exception as error:
        raise ValueError(f'{path} is not a vocabulary that can be read safely: {error}') from None
