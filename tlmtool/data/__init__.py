"""Files and data sets to texts and batches; the calibration text."""
