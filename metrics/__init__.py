"""Scores: labels and predictions in, exact counts kept, results out."""

from metrics.stream_metrics import AverageMeter, StreamSegMetrics
