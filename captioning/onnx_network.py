"""A network as onnxruntime computes it, on CPUs without bfloat16 nearly twice as fast as PyTorch.

    network = OnnxNetwork(backbone, image)      # takes ten seconds
    features = network(images)                  # as backbone(images), but for rounding
"""

import warnings

import torch

from captioning.onnx_export import TRACED, exported


class OnnxNetwork:
    """A copy of a network in eval mode on the CPU, float32; it follows no change of the weights.

    image: (1, ...), what the network takes. ImportError where a package is missing, ValueError
    where PyTorch cannot export the network. It computes in as many threads as PyTorch does.
    """

    def __init__(self, network, image):
        from onnxruntime import InferenceSession, SessionOptions  # here: it is an option
        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait would else keep busy the cores that read the next photos.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')    # the exporter's, of its own workings
            content = exported(network, [image.repeat_interleave(TRACED, dim=0)], ['images'],
                               ['features'])
        self.session = InferenceSession(content, options, providers=['CPUExecutionProvider'])

    def __call__(self, images):
        features, = self.session.run(None, {'images': images.contiguous().numpy()})
        return torch.from_numpy(features)
