"""What every room stands on: ids, clock, errors, tasks, processes, settings, logging."""
