"""From images on disk to masks, pictures and tables."""

from .labels import Labels
from .model import load_model
from .onnx_device import OnnxDevice
from .outputs import Outputs, kinds_of, pack
from .pipeline import Clock, Device, Work, run
from .sources import Job, check_files, find_sources, missing_only, plan
from .tables import Scores, summary
from .torch_device import TorchDevice
