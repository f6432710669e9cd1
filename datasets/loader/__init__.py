"""From data sets to batches: the order of samples, loader processes, and the cache."""

from datasets.loader.cache import SampleCache
from datasets.loader.loaders import Sample, TrainSampler, train_loader, val_loader
from datasets.loader.workers import (
    PREFETCH,
    available_cores,
    check_shared_memory,
    default_num_workers,
    worker_death_line,
)
