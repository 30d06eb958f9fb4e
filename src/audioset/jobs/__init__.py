"""Jobs of any size: what to embed, divided into tasks, done by one process or many, into a folder of Parquet parts.

    items = from_names(paths)                      # or read_manifest("songs.parquet")
    output = begin(items, "embeddings/", info)     # a folder or URL; goes on with what is there
    summary = run_here(Plan(items, output), model, options)

`audioset embed -o embeddings/` does this, `--shard I/N` a share of it, and `audioset.cluster` the same on Ray.
"""

from audioset.jobs.estimate import Estimate, estimate
from audioset.jobs.items import Item, Items, from_names, read_manifest
from audioset.jobs.job import Plan, Recipe, Summary, begin, describe, describe_model, finish, run_here
from audioset.jobs.locks import alone
from audioset.jobs.merge import merge
from audioset.jobs.output import ItemFailure, Output, PartDone, State, is_output, open_output, read_output
from audioset.jobs.tasks import Task, TaskSize, divide
from audioset.jobs.work import Progress, run_tasks

__all__ = [
    "Estimate",
    "Item",
    "ItemFailure",
    "Items",
    "Output",
    "PartDone",
    "Plan",
    "Progress",
    "Recipe",
    "State",
    "Summary",
    "Task",
    "TaskSize",
    "alone",
    "begin",
    "describe",
    "describe_model",
    "divide",
    "estimate",
    "finish",
    "from_names",
    "is_output",
    "merge",
    "open_output",
    "read_manifest",
    "read_output",
    "run_here",
    "run_tasks",
]
