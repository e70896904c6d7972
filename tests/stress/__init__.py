"""Programs that break things on purpose: killed runs, damaged files, reports of users. Each is run by hand."""
