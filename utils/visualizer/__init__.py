"""What a run shows: its history, dashboard, figures, pictures, and the terminal's lines."""

from .dashboard import Visualizer
from .history import History
from .terminal import Progress, plain_warnings
from .trackers import Tracker, Trackers, tolerate_write_errors
