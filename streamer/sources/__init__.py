"""Where samples come from: microphones, media, standard input."""
