"""What is in a data set, and whether it is fit to train on: --check_data and class weights."""

from datasets.check.contact_sheet import save_contact_sheet
from datasets.check.counts import class_weights
from datasets.check.report import check
