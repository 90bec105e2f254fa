"""The tab that watches runs: work folders read as data, and shown."""
