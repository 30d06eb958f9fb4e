"""What goes to disk: embeddings as Parquet, NPZ, NPY, CSV, JSON lines or TFRecord, and back into arrays.

A row is one embedding: the file it comes from, where in it the example starts and ends (seconds), and the values.

========  =====================================================================================================
parquet   columns ``file`` string, ``start_s`` double, ``end_s`` double, ``embedding`` fixed_size_list<float32 or
          uint8>[dim]; none is ever null. Row groups of at most 32,768 rows and 2 MiB; zstd (float32 values with
          byte_stream_split, uint8 with a dictionary); page checksums. The schema's metadata holds the job under
          the key ``audioset`` (JSON).
npz       arrays ``embedding`` (rows, dim), ``start_s`` (rows,), ``end_s`` (rows,), ``file_index`` (rows,),
          ``files`` (num_files,) and ``metadata`` (the same JSON): row i is of ``files[file_index[i]]``.
npy       the values alone, (rows, dim), in the order of the other formats: neither names nor times.
csv       a header ``file,start_s,end_s,e0,e1,…``, one line a row, names quoted where they need it.
jsonl     one object a line: ``{"file": …, "start_s": …, "end_s": …, "embedding": […]}``; null for NaN or infinity.
tfrecord  the schema of the released AudioSet features, see :mod:`audioset.records.tfrecord`; 8-bit values only.
========  =====================================================================================================

Text holds the shortest decimal that reads back as the same float32. File names that are not valid Unicode (undecodable
bytes, which Python carries as lone surrogates) are stored with those bytes written out, ``caf\\udce9.wav``. A file
without rows (too short under ``pad="none"``) appears in the job's counts only.

The JSON of Parquet and NPZ has ``layout`` (1), ``job`` (the fields of `JobInfo`), ``files``, ``rows``,
``num_failures``, ``failures`` (a list of ``[file, reason]``, the first 10,000) and ``inputs_sha256`` (of the list of
inputs, or null).
"""

from audioset.records.formats import FORMATS, format_of
from audioset.records.info import Failure, JobInfo, JobSummary
from audioset.records.job import JobWriter, StreamWriter, check_output, open_writer
from audioset.records.table import EmbeddingTable, read_embeddings
from audioset.records.tfrecord import read_tfrecord

__all__ = [
    "FORMATS",
    "EmbeddingTable",
    "Failure",
    "JobInfo",
    "JobSummary",
    "JobWriter",
    "StreamWriter",
    "check_output",
    "format_of",
    "open_writer",
    "read_embeddings",
    "read_tfrecord",
]
