"""The HTTP face: routes, schemas, errors to status codes."""
