"""A server of protocol 1 that hears nothing itself: it relays what nodes tell an MQTT broker."""
