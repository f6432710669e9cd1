"""What a run shows: its history, dashboard, figures, pictures, and the terminal's lines."""

from .dashboard import DEFAULT_PORT, Dashboard, SampleRows, Visualizer, env_of_run
from .history import SCORE, History
from .record import Record
from .report import save_report
from .samples import SampleSelection, ValidatedSample, batch_sheet, image_scores
from .tensorboard import TensorBoard
from .terminal import Progress, class_table, plain_warnings, summary
from .trackers import Tracker, Trackers, tolerate_write_errors
from .views import save_views
