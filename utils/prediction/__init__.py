"""From images on disk to masks, pictures and tables."""

from .model import load_model
from .onnx_device import OnnxDevice
from .outputs import Outputs, kinds_of, pack
from .pipeline import Clock, Device, Work, run
from .scores import Scores
from .sources import Job, check_files, find_sources, missing_only, plan
from .summary import summary, summary_row
from .torch_device import TorchDevice
