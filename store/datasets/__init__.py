"""Datasets: uploads in many formats become immutable canonical arrays, identified by bytes and overrides."""

from store.catalogue.records import Dataset
from store.datasets.collection import Datasets
from store.datasets.reader import DatasetReader, Rows
from store.datasets.uploads import Format, UploadedFile

__all__ = ["Dataset", "DatasetReader", "Datasets", "Format", "Rows", "UploadedFile"]
