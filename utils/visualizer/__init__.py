"""What a run shows: its history, dashboard, figures, pictures, and the terminal's lines."""

from .dashboard import Dashboard, SampleRows, env_of_run
from .history import SCORE, History
from .predecessor import Visualizer
from .record import Record
from .report import save_report
from .samples import SampleSelection, ValidatedSample, image_scores
from .scores import class_table, summary
from .sheets import batch_sheet
from .tensorboard import TensorBoard
from .terminal import Progress, plain_warnings
from .trackers import Tracker, Trackers, tolerate_write_errors
from .views import save_views
