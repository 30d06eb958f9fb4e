"""What `benchmarks/run.py` measures with: inputs, workers in processes of their own, sections, table and picture."""
