"""Published data sets, as downloaded, into the layout that the pipeline reads: a module for each set."""
