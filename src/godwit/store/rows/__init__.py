"""The tables' adapters, one file per resource; used by `store.transaction` alone."""
