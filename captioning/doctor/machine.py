"""What is there, and what is chosen for it.

    report.table('Machine', functools.partial(machine_rows, device))

Nothing here tells who the user is: no names of hosts, users or folders.
"""

import contextlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch
import torchvision

from captioning import devices, files
from captioning.benchmark.made_up import COCO_IMAGES
from captioning.encoding import BATCH_SIZE
from captioning.gpu_layers import recurrent_dtype

GB = 1e9
GRID_BYTES = COCO_IMAGES * 49 * 2048 * 2    # COCO's training images, 7 x 7 places, float16
SWITCHES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'CAPTIONING_DEVICE',
            'PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF', 'TORCH_ALLOW_TF32_CUBLAS_OVERRIDE',
            'NVIDIA_TF32_OVERRIDE', 'LOCAL_WORLD_SIZE')    # variables that change speed or choice


# ---- What is there ----

def machine_rows(device):
    """Pairs (name, text) of hardware and versions."""
    rows = [('device', str(device))]
    _, reason = devices.working_accelerator()
    if reason:
        rows.append(('a GPU is not usable', reason))
    if not devices.is_cpu(device):
        rows += _accelerator_rows(device)
    if driver := _nvidia_driver():
        rows.append(('NVIDIA driver', driver))
    rows.append(('versions', ', '.join(f'{name} {version}' for name, version in _versions())))
    rows += [('processor', _processor()), ('cores and threads', _cores()),
             ('memory', _memory()), ('shared memory', _free(devices.SHARED_MEMORY)),
             ('disk of data/', f'{_file_system(_data_folder())}, {_free(_data_folder())}'),
             ('other work', _load())]
    switches = [f'{name}={os.environ[name]}' for name in SWITCHES if name in os.environ]
    rows.append(('environment', ' '.join(switches) or 'nothing set'))
    return rows


def _accelerator_rows(device):
    module, facts = torch.get_device_module(device), []
    with contextlib.suppress(Exception):    # an accelerator may not tell some of these
        free, total = module.mem_get_info()
        facts.append(f'{total / GB:.1f} GB, {free / GB:.1f} GB free')
    with contextlib.suppress(Exception):
        facts.append('capability {}.{}'.format(*module.get_device_capability()))
    facts.append(f'{torch.accelerator.device_count()} of them')
    return [('name', devices.name_of(device)), ('memory of the device', ', '.join(facts))]


def _nvidia_driver():
    """Its version, name and memory of the GPUs, also where PyTorch cannot use them; or None."""
    program = shutil.which('nvidia-smi')
    if not program:
        return None
    query = [program, '--query-gpu=driver_version,name,memory.total', '--format=csv,noheader']
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, encoding='utf-8', timeout=20)
        return '; '.join(done.stdout.strip().splitlines()) or None
    return None


def _versions():
    yield 'Python', platform.python_version()
    yield 'torch', torch.__version__
    yield 'CUDA', torch.version.cuda or 'none'
    with contextlib.suppress(Exception):    # it may not load
        yield 'cuDNN', torch.backends.cudnn.version() or 'none'
    yield 'torchvision', torchvision.__version__
    yield 'numpy', np.__version__
    yield 'system', f'{platform.system()} {platform.release()}'


def _processor():
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path('/proc/cpuinfo').read_text('utf-8').splitlines()
        name = next(line.split(': ')[1] for line in lines if line.startswith('model name'))
    return f'{name}, {torch.backends.cpu.get_cpu_capability()}'


def cores():
    """Cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cores():
    return (f'{cores()} of {os.cpu_count()} cores for this process, '
            f'PyTorch computes in {torch.get_num_threads()} threads')


def _memory():
    with contextlib.suppress(OSError, KeyError):
        lines = Path('/proc/meminfo').read_text('utf-8').splitlines()
        kilobytes = {key: int(value.split()[0]) for key, value in
                     (line.split(':') for line in lines)}
        total, free = (1024 * kilobytes[key] / GB for key in ('MemTotal', 'MemAvailable'))
        return f'{total:.1f} GB, {free:.1f} GB free'
    return 'unknown'


def _free(folder):
    if not os.path.isdir(folder):
        return 'there is none'
    return f'{shutil.disk_usage(folder).free / GB:.1f} GB free'


def _data_folder():
    """The folder of caches, or the nearest above it that is there."""
    folder = files.CACHE.resolve()
    return folder if folder.is_dir() else next(up for up in folder.parents if up.is_dir())


def _file_system(folder):
    """Its kind, such as ext4, nfs or overlay."""
    with contextlib.suppress(OSError):
        lines = Path('/proc/mounts').read_text('utf-8').splitlines()
        mounts = [line.split()[1:3] for line in lines]
        above = [(len(point), kind) for point, kind in mounts
                 if Path(folder).is_relative_to(point)]
        return max(above, default=(0, 'of unknown kind'))[1]
    return 'of unknown kind'


def load():
    """How many processes wanted to compute in the last minute; None where nobody counts them."""
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def _load():
    if load() is None:
        return 'unknown'
    return f'{load():.1f} processes computed in the last minute, before this began'


# ---- What is chosen ----

def choice_rows(device):
    """Pairs (name, text) of what is chosen for a device."""
    fitting = devices.fits(GRID_BYTES, device)
    return [
        ('encoder and decoding', short(devices.fast_dtype(device))),
        ('training', short(devices.training_dtype(device))),
        ('recurrent layers', f'{short(recurrent_dtype(device))} in training'),
        ('loading workers', str(workers_for(device, COCO_IMAGES))),
        ('length groups', str(devices.length_groups(device))),
        ('words between checks', str(devices.words_between_checks(device))),
        ('images decoded at once', str(devices.decoding_batch(device))),
        ('pinned memory', _yes(devices.pins_memory(device))),
        ("COCO's grids on device", f'{_yes(fitting)} ({GRID_BYTES / GB:.1f} GB a view)'),
    ]


def workers_for(device, photos):
    """Processes that load so many photos, of the size that most encoders take."""
    return devices.loading_workers(device, photos // BATCH_SIZE, BATCH_SIZE * 3 * 224 ** 2)


def short(dtype):
    """Such as 'bfloat16'."""
    return str(dtype).removeprefix('torch.')


def _yes(value):
    return 'yes' if value else 'no'
