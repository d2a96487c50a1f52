"""Fine-tuning a network on spectrogram windows: settings, data, training loop, checkpoints."""
