"""Pure parts of the pipeline: no clock, thread, socket or file but the model's."""
