"""A run on a Visdom server, live: the tracker, the server, and the predecessor's `Visualizer`."""

from .dashboard import Dashboard, env_of_run
from .predecessor import Visualizer
from .sender import DEFAULT_PORT
from .windows import SampleRows
