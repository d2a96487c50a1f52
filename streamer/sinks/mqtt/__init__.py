"""Events to an MQTT broker, and the sensors of Home Assistant that they become."""
