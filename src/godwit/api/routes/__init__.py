"""Routes, one file per resource: parse, call one service function, wrap."""
