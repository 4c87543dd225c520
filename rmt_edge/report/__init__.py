"""The report: one page, Markdown and HTML, of everything that a folder holds about a checkpoint."""
