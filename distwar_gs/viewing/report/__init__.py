"""report.html of a run: what came of it, on one page that needs no network."""
