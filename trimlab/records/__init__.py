"""Records: the rows that runs leave, their schema, and the strict reader of results."""
