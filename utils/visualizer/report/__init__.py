"""report.html: a run, or several beside each other, as one file that can be mailed."""

from .page import save_comparison, save_report
