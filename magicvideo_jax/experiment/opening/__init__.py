"""Opening the weights that runs and pipelines begin with: work folders, and what is put into weights."""
