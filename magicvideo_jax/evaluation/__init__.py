"""One metric a file, each `run(generate, batches)` yielding `(name, value)`."""
