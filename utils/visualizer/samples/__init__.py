"""The validation images that a run shows: which ones, their files, and sheets of them."""

from .files import delete_samples, load_samples, save_samples
from .selection import (
    SampleSelection,
    ValidatedSample,
    image_scores,
    rows_of_interest,
    worst_first,
)
from .sheets import batch_sheet, panels, sample_row, stacked
