"""Your own images in folders, as a data set."""

from datasets.folder.dataset import Folder
