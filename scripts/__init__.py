"""The commands: `python -m scripts.NAME --help`. What they share is in captioning/."""

import argparse
import signal
import sys


def run_main(main):
    """Run a command's `main()`: an error is one line on stderr and exit status 1.

    With --debug among the arguments the traceback is shown.
    """
    debug = '--debug' in sys.argv[1:]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != '--debug']
    for stream in (sys.stdout, sys.stderr):    # to a file, code pages of Windows lack most letters
        stream.reconfigure(errors='backslashreplace')
    signal.signal(signal.SIGTERM, _end)    # by an exception, so that all is tidied up
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('interrupted')
    except MemoryError:
        sys.exit('error: not enough memory')
    except (OSError, ValueError, RuntimeError) as error:
        if debug:
            raise
        sys.exit(f'error: {error}')
    except Exception as error:
        if debug:
            raise
        sys.exit(f'error: unforeseen {type(error).__name__}: {error} '
                 '(the same with --debug shows where)')


def add_choice_options(parser):
    """--names, --consensus and their opposites, of commands that caption photos."""
    parser.add_argument('--names', action=argparse.BooleanOptionalAction,
                        help="name what ImageNet's classifier recognizes (default: those that ship "
                        'do)')
    parser.add_argument('--consensus', action=argparse.BooleanOptionalAction,
                        help='choose among several captions by what people would say (default: '
                        'where NAME.consensus.pt is beside NAME.pt)')


def _end(*_):
    sys.exit('terminated')
