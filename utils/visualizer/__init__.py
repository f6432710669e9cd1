"""What a run shows: its history, dashboard, figures, pictures, and the terminal's lines."""

from .dashboard import Visualizer
from .history import History
from .terminal import Progress, plain_warnings
from .trackers import Trackers, lets_writing_fail

__all__ = ["History", "Progress", "Trackers", "Visualizer", "lets_writing_fail", "plain_warnings"]
