"""The benchmarks: each reads its published layouts from a local folder, and knows its metric."""
