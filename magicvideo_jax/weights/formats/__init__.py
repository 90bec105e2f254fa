"""Weight formats: one file and one object for each form in which weights circulate."""
