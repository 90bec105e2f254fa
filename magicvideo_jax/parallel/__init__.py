"""Device mesh, shardings of parameters, and placement of batches."""
