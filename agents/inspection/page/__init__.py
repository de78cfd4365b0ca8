"""A self-contained HTML page that plays episodes beside the memory."""
